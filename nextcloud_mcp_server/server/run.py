"""The server process: uvicorn, signals, and the output for the operator."""

from __future__ import annotations

import asyncio

# These codecs are imported when they are needed: on an error path, where no descriptor is left.
import encodings.idna
import encodings.unicode_escape  # noqa: F401
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

import uvicorn

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.errors import (
    TokenStorageError,
    describe_error,
    printable,
    traceback_lines,
)
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.summary import outcome_lines
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.server.limits import (
    ACCEPTED_AT_ONCE,
    QUEUE,
    Connection,
    Connections,
    OncePerSecond,
    raise_limits,
)
from nextcloud_mcp_server.server.sockets import bind, cannot_listen, shown
from nextcloud_mcp_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

#: Messages of uvicorn that are dropped: the error itself is printed.
_DROPPED: Final = frozenset(
    {"Application startup failed. Exiting.", "Application shutdown failed. Exiting."}
)

#: Seconds that a stop waits for running requests. Docker kills after ten.
_GRACE: Final = 8


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    settings: Settings | None = None,
    debug: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT, and print what happens to stdout and stderr.

    A signal during the start stops a wait for the lock at once; a migration that has begun
    is finished first. Call it in the main thread: other threads receive no signals.

    Args:
        host: a name or an address of this machine.
        port: 0 for a free one, which is printed.
        settings: None to read them from the environment.
        debug: log debug messages, and print tracebacks.

    Returns:
        The exit status: 0 after serving and a clean stop, otherwise 1.
    """
    with _Stop().handling() as stop, _log_to_stderr(debug=debug):
        try:
            _serve(host, port, settings or load_settings(), stop)
        except Exception as error:  # noqa: BLE001 - every error is printed here
            for line in (*(traceback_lines(error) if debug else ()), *describe_error(error)):
                _print(line, sys.stderr)
            return 1
        return 0


def _serve(host: str, port: int, settings: Settings, stop: _Stop) -> None:
    connections = Connections(raise_limits())
    with ExitStack() as closing:
        # Bound first, so that nothing is migrated if the port is taken.
        sockets = bind(host, port)
        for bound in sockets:
            closing.callback(bound.close)
        _print(f"database: {printable(str(settings.database.absolute()))}")
        if settings.empty:
            _print(
                f"warning: {settings.empty} is empty and counts as unset, so "
                f"{printable(str(settings.database))} is used. Give it a value, or unset it.",
                sys.stderr,
            )
        if settings.fallback_from is not None:
            _print(
                f"warning: {settings.fallback_from} cannot be used here, so "
                f"{printable(str(settings.database))} is used instead. "
                "Set TOKEN_STORAGE_DB to choose another.",
                sys.stderr,
            )
        app = _App(create_app(settings=settings), stop)
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=cast("Any", partial(Connection, connections=connections)),
            # Anybody can send X-Forwarded-* headers.
            proxy_headers=False,
            lifespan="on",
            loop="asyncio",
            ws="none",
            workers=1,
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=ACCEPTED_AT_ONCE,
            timeout_graceful_shutdown=_GRACE,
        )
        server = _Server(config, app)
        with stop.calling(server.handle_exit):
            server.run(sockets)
        if app.failure is not None:
            raise app.failure
        if not server.served:
            raise _interrupted(settings.database)
        _print("stopped")


def _interrupted(database: Path) -> TokenStorageError:
    now = "no change was interrupted"
    with suppress(TokenStorageError):
        if (recorded := inspect(connect(database)).recorded) is not None:
            # Tell the operator whether the migration has run.
            now = f"{printable(str(database))} is at revision {recorded}"
    return TokenStorageError(
        f"The start was asked to stop before the server was ready; {now}.",
        code="interrupted",
        remedy="Start again.",
    )


def _print(line: str, file: TextIO | None = None) -> None:
    # Serving continues if nothing reads the output any more.
    with suppress(OSError):
        print(line, file=file or sys.stdout, flush=True)


class _Lines(logging.Formatter):
    """Format a record as its message, with the level in front from warning up."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        # A path may contain line breaks. A traceback, which is added later, keeps its own.
        text = printable(super().formatMessage(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


@contextmanager
def _log_to_stderr(*, debug: bool) -> Iterator[None]:
    """Write this package's log to stderr, and the warnings of the libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    handler.addFilter(lambda record: record.msg not in _DROPPED)
    handler.addFilter(OncePerSecond())
    root, ours = logging.getLogger(), logging.getLogger("nextcloud_mcp_server")
    before = ours.level
    ours.setLevel(logging.DEBUG if debug else logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)


class _Stop:
    """The handler of the signals that stop the program.

    Attributes:
        requested: whether such a signal was received.
    """

    def __init__(self) -> None:
        self.requested = False
        self._callbacks: list[Callable[[int, FrameType | None], object]] = []

    @contextmanager
    def calling(self, callback: Callable[[int, FrameType | None], object]) -> Iterator[None]:
        """Call ``callback`` in the signal handler, at each signal during the ``with`` block."""
        self._callbacks.append(callback)
        try:
            yield
        finally:
            self._callbacks.remove(callback)

    @contextmanager
    def handling(self) -> Iterator[_Stop]:
        """Handle the signals, and restore the previous handlers afterwards.

        After a signal they are ignored instead: the program is ending, and another signal
        must not kill it (Python removes its own handlers before it exits).
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.requested else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        for callback in tuple(self._callbacks):
            callback(number, frame)


class _App:
    """The application, with the error of its lifespan in ``failure``.

    Starlette sends uvicorn a traceback as text, which uvicorn would print. Here the error
    is kept and the text dropped.
    """

    def __init__(self, app: ASGIApp, stop: _Stop) -> None:
        self._app = app
        self._stop = stop
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is None:
            raise AssertionError("a lifespan runs in a task")
        starting = True

        def cancel() -> None:
            # Once it has started, uvicorn shuts it down.
            if starting:
                task.cancel()

        async def pass_on(message: MutableMapping[str, Any]) -> None:
            nonlocal starting
            starting = False
            if message["type"].endswith(".failed"):
                message = {**message, "message": ""}
            await send(message)

        with self._stop.calling(lambda *_: loop.call_soon_threadsafe(cancel)):
            if self._stop.requested:
                await pass_on({"type": "lifespan.startup.failed"})
                return
            try:
                await self._app(scope, receive, pass_on)
            except Exception as error:
                self.failure = error
                raise


class _Server(uvicorn.Server):
    """uvicorn's server with this program's output, signals and exit status."""

    def __init__(self, config: uvicorn.Config, app: _App) -> None:
        super().__init__(config)
        self._app = app
        self.served = False

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Do nothing: :class:`_Stop` handles the signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start and print the outcome, or set ``should_exit``."""
        try:
            await super().startup(sockets)
        except SystemExit:
            # uvicorn raises it if the lifespan failed.
            self.should_exit = True
            return
        except OSError as error:
            # The sockets are bound but do not listen yet: another program can take the port.
            [*_, (host, port)] = [bound.getsockname()[:2] for bound in sockets or ()]
            self._app.failure = cannot_listen(host, port, error)
            self.should_exit = True
            await self.lifespan.shutdown()
            return
        outcome = self.lifespan.state["storage"].outcome
        for line in (*outcome_lines(outcome), connect(outcome.database).version()):
            _print(line)
        if not self.should_exit:
            self.served = True
            for bound in sockets or ():
                bound.listen(QUEUE)
                _print(f"listening on http://{shown(*bound.getsockname()[:2])}")
