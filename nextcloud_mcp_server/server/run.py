"""The server as a program: uvicorn, signals, and what a person sees of a start."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO

import uvicorn

from nextcloud_mcp_server.errors import (
    TokenStorageError,
    describe_error,
    printable,
    traceback_lines,
)
from nextcloud_mcp_server.migrate.inspect import examine
from nextcloud_mcp_server.migrate.summary import outcome_lines
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.server.sockets import bind, cannot_listen, shown
from nextcloud_mcp_server.settings import Settings, load_settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

#: What uvicorn says of a failure that is told in a line of its own.
_SAID_BETTER: Final = frozenset(
    {
        "Application startup failed. Exiting.",
        "Application shutdown failed. Exiting.",
    }
)

#: Seconds that a stop waits for requests under way. Docker kills after ten.
_GRACE: Final = 8


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    settings: Settings | None = None,
    debug: bool = False,
    access_log: bool = False,
) -> int:
    """Serve until SIGTERM or SIGINT, telling on stdout and stderr what happens.

    A signal during the start ends a wait for the lock at once; a migration that has begun
    is finished first. Call it in the main thread: signals are not seen elsewhere.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one, which is printed.
        settings: None to read them from the environment.
        debug: whether the log says everything, and an error shows its traceback.
        access_log: whether every request is logged.

    Returns:
        The exit status: 0 after serving and a clean stop, 1 otherwise.
    """
    with _Stop().handling() as stop, _log_to_stderr(debug=debug, access_log=access_log):
        try:
            _serve(host, port, settings or load_settings(), stop, access_log=access_log)
        except Exception as error:  # noqa: BLE001 - told here, whatever it is
            for line in (*(traceback_lines(error) if debug else ()), *describe_error(error)):
                _say(line, sys.stderr)
            return 1
        return 0


def _serve(host: str, port: int, settings: Settings, stop: _Stop, *, access_log: bool) -> None:
    with ExitStack() as closing:
        # Bound first: a port that is taken is no reason to migrate. Not listening yet, so
        # that nobody who connects is left waiting for a migration.
        sockets = bind(host, port)
        for bound in sockets:
            closing.callback(bound.close)
        _say(f"database: {printable(str(settings.database.absolute()))}")
        if settings.fallback_from is not None:
            _say(
                f"warning: {settings.fallback_from} cannot be used here, so "
                f"{printable(str(settings.database))} is used instead. "
                "Set TOKEN_STORAGE_DB to choose another.",
                sys.stderr,
            )
        watched = _Watched(create_app(settings=settings), stop)
        config = uvicorn.Config(
            watched,
            interface="asgi3",
            lifespan="on",
            loop="asyncio",
            ws="none",
            workers=1,
            log_config=None,
            access_log=access_log,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
        server = _Server(config, watched)
        with stop.telling(server.handle_exit):
            server.run(sockets)
        if watched.failure is not None:
            raise watched.failure
        if not server.served:
            raise _interrupted(settings.database)
        _say("stopped")


def _interrupted(database: Path) -> TokenStorageError:
    now = "nothing was cut short"
    with suppress(TokenStorageError):
        if (recorded := examine(database).finding.recorded) is not None:
            # Whoever stops a start wants to know whether it has migrated.
            now = f"{printable(str(database))} is at revision {recorded}"
    return TokenStorageError(
        f"The start was asked to stop before the server was ready; {now}.",
        code="interrupted",
        remedy="Start again.",
    )


def _say(line: str, file: TextIO | None = None) -> None:
    # A reader who has left is no reason to stop serving.
    with suppress(OSError):
        print(line, file=file or sys.stdout, flush=True)


class _Lines(logging.Formatter):
    """The message alone; from warning up, with the word in front."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        # A path in it may hold line breaks; a traceback, added later, keeps its own.
        text = printable(super().formatMessage(record))
        return text if record.levelno < logging.WARNING else f"{record.levelname.lower()}: {text}"


@contextmanager
def _log_to_stderr(*, debug: bool, access_log: bool) -> Iterator[None]:
    """Show this package's log on stderr, and the warnings of the libraries."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    handler.addFilter(lambda record: record.msg not in _SAID_BETTER)
    root, ours = logging.getLogger(), logging.getLogger(__package__)
    before = ours.level
    ours.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if access_log else logging.WARNING)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(before)


class _Stop:
    """Whether somebody asked the program to stop, and who is to be told."""

    def __init__(self) -> None:
        self.asked = False
        self._listeners: list[Callable[[int, FrameType | None], object]] = []

    @contextmanager
    def telling(self, listener: Callable[[int, FrameType | None], object]) -> Iterator[None]:
        """Call ``listener`` at every signal meanwhile, in the signal handler."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def handling(self) -> Iterator[_Stop]:
        """Handle the signals, and give them back at the end, unless one has come.

        Then the program is ending, and they are ignored: another one must not turn its last
        steps into a violent death. (Python gives up its own handlers before it has ended.)
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self.asked else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for listener in tuple(self._listeners):
            listener(number, frame)


class _Watched:
    """The application, and what became of its lifespan.

    Starlette hands uvicorn a traceback as text, and uvicorn prints it. Here the error
    itself is kept, and nothing is left to print.
    """

    def __init__(self, app: ASGIApp, stop: _Stop) -> None:
        self._app = app
        self._stop = stop
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is None:
            raise AssertionError("a lifespan runs in a task")
        starting = True

        def cancel() -> None:
            # Not a start that has succeeded meanwhile: that one is shut down.
            if starting:
                task.cancel()

        async def pass_on(message: MutableMapping[str, Any]) -> None:
            nonlocal starting
            starting = False
            if message["type"].endswith(".failed"):
                message = {**message, "message": ""}
            await send(message)

        with self._stop.telling(lambda *_: loop.call_soon_threadsafe(cancel)):
            if self._stop.asked:
                await pass_on({"type": "lifespan.startup.failed"})
                return
            try:
                await self._app(scope, receive, pass_on)
            except Exception as error:
                self.failure = error
                raise


class _Server(uvicorn.Server):
    """uvicorn's server, without its own words, its own signals and its exit status 3."""

    def __init__(self, config: uvicorn.Config, watched: _Watched) -> None:
        super().__init__(config)
        self._watched = watched
        self.served = False

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Nothing: they are handled since long before, and need not be raised again."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so; or set ``should_exit``."""
        try:
            await super().startup(sockets)
        except SystemExit:
            # uvicorn's way to say that the lifespan failed.
            self.should_exit = True
            return
        except OSError as error:
            # Bound but not listening, a port can still be lost to a quicker program.
            [*_, (host, port)] = [bound.getsockname()[:2] for bound in sockets or ()]
            self._watched.failure = cannot_listen(host, port, error)
            self.should_exit = True
            await self.lifespan.shutdown()
            return
        for line in outcome_lines(self.lifespan.state["storage"].outcome):
            _say(line)
        if not self.should_exit:
            self.served = True
            for bound in sockets or ():
                _say(f"listening on http://{shown(*bound.getsockname()[:2])}")
