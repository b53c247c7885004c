"""The process of the mode for one person: MCP over stdin and stdout, everything else to stderr."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from anyio import to_thread
from mcp.server.stdio import stdio_server

from nextcloud_mcp_server.nextcloud.connection import open_http
from nextcloud_mcp_server.server.log import LogOptions, log_to_stderr
from nextcloud_mcp_server.settings.nextcloud import AccountSettings, account_settings
from nextcloud_mcp_server.tools.one_person import OnePerson
from nextcloud_mcp_server.tools.server import READING, SCOPES, create_mcp

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_CHUNK: Final = 65_536


def serve_stdio(
    settings: AccountSettings | None = None, *, debug: bool = False, log: LogOptions | None = None
) -> int:
    """Serve one person over stdin and stdout until stdin ends, or until SIGTERM or SIGINT.

    No database is opened. Call it in the main thread: other threads receive no signals.

    Args:
        settings: the account; None to read it from the environment.
        debug: log debug messages, and print tracebacks.
        log: what to log; None for the defaults.

    Returns:
        The exit status: 0 after a clean stop, otherwise 1.
    """
    log = log or LogOptions()
    if debug:
        log = log._replace(level="debug")
    with log_to_stderr(log) as printer, _Input().stopped_by_signals() as lines:
        try:
            anyio.run(_serve, settings or account_settings(), lines)
        except Exception as error:  # noqa: BLE001 - every error is printed here
            while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            # The client has closed its end.
            if not isinstance(error, BrokenPipeError):
                printer.error(error, debug=debug)
                return 1
        logger.info("stopped")
    return 0


async def _serve(settings: AccountSettings, lines: _Input) -> None:
    async with open_http() as http:
        access = OnePerson(settings, http, READING if settings.read_only else SCOPES)
        mcp = create_mcp(access, read_only=settings.read_only, share_links=settings.share_links)
        usable = not (settings.missing or settings.wrong)
        if usable:
            logger.info("serving %s of %s over stdio", settings.username, settings.host)
        if access.advice:
            logger.warning("%s", access.advice)
        if settings.unencrypted and usable:
            logger.warning(
                "%s is not encrypted: everybody on the way can read the password", settings.host
            )
        await _exchange(mcp, lines)


async def _exchange(mcp: MCPServer[Any], lines: _Input) -> None:
    # run_stdio_async() takes no stream for stdin.
    server = mcp._lowlevel_server
    # It only iterates over stdin.
    async with stdio_server(stdin=cast("anyio.AsyncFile[str]", lines)) as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


class _Input:
    """The lines of stdin, which also end after a signal.

    The SDK reads stdin in a thread, where a read that waits for a line cannot be cancelled.
    """

    def __init__(self) -> None:
        self._stopped = False
        self._wake, self._waker = os.pipe()

    @contextmanager
    def stopped_by_signals(self) -> Iterator[_Input]:
        """End the lines at SIGTERM and SIGINT; restore the handlers afterwards."""
        try:
            if threading.current_thread() is not threading.main_thread():
                yield self
                return
            before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
            try:
                yield self
            finally:
                # After a signal the program ends, and another one must not kill it.
                for number, handler in before.items():
                    signal.signal(number, signal.SIG_IGN if self._stopped else handler)
        finally:
            # Also ends a read that was abandoned.
            self._stop()
            os.close(self._waker)

    def _handle(self, *_: object) -> None:
        self._stopped = True
        self._stop()

    def _stop(self) -> None:
        os.write(self._waker, b"\n")

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield each line."""
        parts: list[bytes] = []
        while chunk := await to_thread.run_sync(self._read, abandon_on_cancel=True):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                yield b"".join([*parts, end]).decode("utf-8", "replace")
                parts = []
            parts.append(rest)

    def _read(self) -> bytes:
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll()}
        return b"" if self._wake in ready else os.read(0, _CHUNK)
