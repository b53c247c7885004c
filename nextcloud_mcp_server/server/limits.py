"""The limits of the server: open files, connections, the time for a request to arrive, its log.

A server without descriptors answers nobody. So connections that send no request, or a part of
one, are closed first, and a number of descriptors is kept for the database.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import select
import time
from contextlib import suppress
from itertools import chain
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nextcloud_mcp_server import core_dumps

#: The most open connections, if the process may open as many files. A client in a session has two
#: or three: one that waits for messages, and those of its requests.
MOST: Final = 4_000

#: Descriptors that are kept for the database, its locks and backups, and the listening sockets.
RESERVED: Final = 100

#: Connections that are accepted at once, before any of them is counted.
ACCEPTED_AT_ONCE: Final = 16

#: Connections that the operating system keeps until they are accepted.
QUEUE: Final = 1_024

#: Seconds for the head of a request, from the connection or from its first byte on.
HEAD_TIMEOUT: Final = 10.0

#: Seconds for the body of a request: without a byte of it, and in all. The largest one, 4 MiB for a
#: tool, may come from a slow network.
BODY_SILENCE: Final = 30.0
BODY_TIMEOUT: Final = 300.0

#: Seconds without a byte of a body after which its connection makes room for another one.
_STALLED: Final = 1.0

#: Seconds in which a repeated log line is printed once.
_REPEAT: Final = 1.0

#: Log lines that are remembered.
_REMEMBERED: Final = 256

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)
_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def raise_limits() -> int:
    """Raise the limit on open files as far as allowed, and write no core dump, which has keys.

    Returns:
        The most connections that the server may have open.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    core_dumps.forbid()
    core_dumps.make_undumpable()
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST
    return max(1, min(MOST, files - RESERVED))


class Connections:
    """Those that wait for a request, oldest first; ``most`` may be open, the others included.

    ``sending`` are those that wait for the rest of a body, and when a part of it came last.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.waiting: dict[Connection, None] = {}
        self.sending: dict[Connection, float] = {}

    def idle(self) -> Connection | None:
        """Return the one that waits longest, except for those that have sent what is not read.

        If all have sent a request, it is one whose body does not arrive.
        """
        stalled = (each for each in self.sending if each.is_stalled())
        candidates = chain(self.waiting, stalled)
        return next((each for each in candidates if not each.has_unread()), None)


class Connection(H11Protocol):
    """A connection that is closed if no request arrives in time, or if others need its place."""

    def __init__(self, *arguments: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._all = connections
        self._timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._body_ends = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; if there are too many, close the one that waits longest."""
        super().connection_made(transport)
        if len(self.connections) > self._all.most:
            idle = self._all.idle()
            if idle is None:
                transport.write(_BUSY)
                transport.close()
                return
            idle.close_now()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self._stop_body()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        if self._timer is None and not self._is_busy():
            self._wait()
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle complete events; a request's head has arrived if one is being answered."""
        try:
            super().handle_events()
        except h11.LocalProtocolError:
            # A malformed body, of which the answer has begun already.
            self.transport.close()
        if self._is_busy():
            self._stop_waiting()
        if self._is_busy() and self.cycle.more_body:
            self._wait_for_body()
        else:
            self._stop_body()

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: anybody can ask for a WebSocket, and uvicorn's advice would not help."""

    def send_400_response(self, msg: str) -> None:
        """Answer a request that cannot be read; the application's own answer is dropped."""
        self._disconnect()
        super().send_400_response(msg)

    def on_response_complete(self) -> None:
        """Wait for the next request. uvicorn closes the connection if none begins."""
        self._stop_body()
        super().on_response_complete()
        if not self._is_busy() and not self.transport.is_closing():
            self._all.waiting[self] = None

    def has_unread(self) -> bool:
        """Return whether a part of a request has arrived that the loop has not read yet."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def is_stalled(self) -> bool:
        """Return whether the client could send more of a body, and does not."""
        silent = self.loop.time() - self._all.sending[self]
        return silent >= _STALLED and not self._is_held_up()

    def shutdown(self) -> None:
        """Close the connection when its request is answered; at once if that does not arrive."""
        if self in self._all.sending and self.is_stalled():
            self.close_now()
        else:
            super().shutdown()

    def close_now(self) -> None:
        """Close the connection at once."""
        self._stop_waiting()
        self._stop_body()
        self._disconnect()
        self.connections.discard(self)
        self.transport.abort()

    def _is_busy(self) -> bool:
        cycle: Any = self.cycle  # None before the first request
        return cycle is not None and not cycle.response_complete

    def _wait(self) -> None:
        self._all.waiting[self] = None
        self._timer = self.loop.call_later(HEAD_TIMEOUT, self._close_slow)

    def _stop_waiting(self) -> None:
        self._all.waiting.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_slow(self) -> None:
        self._stop_waiting()
        if self.conn.trailing_data[0]:
            self.transport.write(_SLOW)
        self.transport.close()

    def _wait_for_body(self) -> None:
        now = self.loop.time()
        if self._body_timer is None:
            self._body_ends = now + BODY_TIMEOUT
            self._body_timer = self.loop.call_later(BODY_SILENCE, self._check_body)
        # The one that has been silent longest is first.
        self._all.sending.pop(self, None)
        self._all.sending[self] = now

    def _stop_body(self) -> None:
        self._all.sending.pop(self, None)
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _check_body(self) -> None:
        """Close the connection if the body is late; otherwise check again when it would be."""
        now = self.loop.time()
        late = min(self._all.sending[self] + BODY_SILENCE, self._body_ends)
        if self._is_held_up():
            late = now + BODY_SILENCE
        if now < late:
            self._body_timer = self.loop.call_at(late, self._check_body)
            return
        self._stop_body()
        if not self.cycle.response_started:
            self.transport.write(_SLOW)
        self._disconnect()
        self.transport.close()

    def _is_held_up(self) -> bool:
        """Return whether the client cannot send more, because the application does not read."""
        return self.flow.read_paused or self.cycle.waiting_for_100_continue

    def _disconnect(self) -> None:
        """Tell the application, if it is answering, that nobody waits any more."""
        if self._is_busy():
            self.cycle.disconnected = True
            self.cycle.message_event.set()


class OncePerSecond(logging.Filter):
    """Drops a record that repeats another one of the same second."""

    def __init__(self) -> None:
        super().__init__()
        self._times: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print the record."""
        if record.levelno < logging.WARNING:
            return True
        key, now = (record.name, record.getMessage()), time.monotonic()
        if now < self._times.get(key, -_REPEAT) + _REPEAT:
            return False
        if len(self._times) >= _REMEMBERED:
            self._times.clear()
        self._times[key] = now
        return True
