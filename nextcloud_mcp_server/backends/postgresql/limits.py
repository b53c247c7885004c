"""How long a unit of work may take if the server does not answer.

A server that was stopped, a network that drops packets and a pooler whose server is away close no
connection: without a limit of its own the client would wait for minutes, or for ever.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from nextcloud_mcp_server.concurrency import start
from nextcloud_mcp_server.errors import TokenStorageError

#: Seconds for which a unit is tried again, and for which a statement may run. PgBouncer refuses
#: every login for 15 seconds after it has seen a server that was down.
RETRY: Final = 20.0

#: Seconds that :meth:`Limits.close` leaves to the units that have not ended.
CLOSING: Final = 5.0

#: Seconds between two inspections of the connections.
_INTERVAL: Final = 0.5


class Running(Protocol):
    """A connection with a statement that may be running."""

    def running(self) -> object:
        """Return a value that changes with each statement; None if none runs."""

    def cut(self) -> None:
        """Let the running statement fail."""


class Limits:
    """The time limits of a pool. A thread cuts the connections of statements that reach them.

    Attributes:
        retry: seconds for which a unit is tried again, and for which a statement may run.
        closing: seconds that :meth:`close` leaves to the units that have not ended.
    """

    def __init__(self, retry: float | None = None, closing: float | None = None) -> None:
        self.retry = RETRY if retry is None else retry
        self.closing = CLOSING if closing is None else closing
        self._last = math.inf
        self._failed = -math.inf
        self._error: Exception | None = None
        self._links: set[Running] = set()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._ended = threading.Event()

    def deadline(self, begun: float) -> float:
        """Return until when a unit from the time ``begun`` is tried again."""
        return min(begun + self.retry, self._last)

    def failed(self, error: Exception) -> None:
        """Take note of a connection that could not be opened, or was lost."""
        self._failed, self._error = time.monotonic(), error

    def require_time(self, begun: float) -> None:
        """Fail if a unit has no time left, and the server was away while the unit waited.

        Raises:
            Exception: what :meth:`failed` was called with last.
        """
        is_over = self._failed >= begun and time.monotonic() >= self.deadline(begun)
        if is_over and self._error is not None:
            raise self._error.with_traceback(None)

    def add(self, link: Running) -> None:
        """Watch a connection."""
        self._links.add(link)
        if self._thread is None:
            with self._starting, suppress(TokenStorageError):
                if self._thread is None:
                    thread = threading.Thread(
                        target=self._watch, name="token-store-limits", daemon=True
                    )
                    start(thread)
                    self._thread = thread

    def remove(self, link: Running) -> None:
        """Watch a connection no longer."""
        self._links.discard(link)

    def close(self) -> None:
        """Leave some seconds to the units that have not ended."""
        self._last = min(self._last, time.monotonic() + self.closing)

    def end(self) -> None:
        """End the thread."""
        self._ended.set()

    def _watch(self) -> None:
        since: dict[Running, tuple[object, float]] = {}
        while not self._ended.wait(_INTERVAL):
            now, before, since = time.monotonic(), since, {}
            for link in list(self._links):
                if (statement := link.running()) is None:
                    continue
                known, begun = before.get(link, (None, now))
                since[link] = (statement, begun if statement == known else now)
                if now >= self.deadline(since[link][1]):
                    link.cut()
            if not self._links and now >= self._last:
                return


class Cutter:
    """Shuts the socket of a connection down, from any thread.

    Args:
        descriptor: the socket. A copy of it is kept, because the number of a socket that the
            driver has closed may belong to another file a moment later.
    """

    def __init__(self, descriptor: int) -> None:
        self._lock = threading.Lock()
        self._copy: int | None = os.dup(descriptor)

    def cut(self) -> None:
        """Let every wait for the socket end."""
        self._use(lambda one: one.shutdown(socket.SHUT_RDWR))

    def close(self) -> None:
        """Close the copy."""
        self._use(lambda one: one.close())

    def _use(self, call: Callable[[socket.socket], Any]) -> None:
        with self._lock:
            if self._copy is None:
                return
            one = socket.socket(fileno=self._copy)
            with suppress(OSError):
                call(one)
            left = one.detach()
            self._copy = None if left < 0 else left
