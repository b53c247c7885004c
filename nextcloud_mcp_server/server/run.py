"""The server process: uvicorn, signals, and the output for the operator."""

from __future__ import annotations

import asyncio

# These codecs are imported when they are needed: on an error path, where no descriptor is left.
import encodings.idna
import encodings.unicode_escape  # noqa: F401
import logging
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, MutableMapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, cast

import uvicorn

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.errors import TokenStorageError, printable
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.migrate.inspect import inspect
from nextcloud_mcp_server.migrate.summary import outcome_lines
from nextcloud_mcp_server.secret import hidden
from nextcloud_mcp_server.server.access_log import AccessLog
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.server.first_contact import warn_if_unusable
from nextcloud_mcp_server.server.limits import (
    ACCEPTED_AT_ONCE,
    QUEUE,
    Connection,
    Connections,
    raise_limits,
)
from nextcloud_mcp_server.server.log import LogOptions, Printer, log_to_stderr
from nextcloud_mcp_server.server.request_id import RequestIds
from nextcloud_mcp_server.server.sockets import bind, cannot_listen, shown
from nextcloud_mcp_server.server.starting import answering
from nextcloud_mcp_server.settings import Settings, load_settings
from nextcloud_mcp_server.settings.nextcloud import (
    NextcloudSettings,
    lacks_public_url,
    nextcloud_settings,
    without_effect,
)
from nextcloud_mcp_server.settings.process import status_token, trusted_proxies

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

#: Seconds after which the event loop of a start wakes up. A signal that arrives just before it
#: sleeps, or in another thread, does not wake it, and Python calls its handler only afterwards.
_TICK: Final = 0.25

#: Seconds for which a connection is kept for another request: longer than clients and proxies
#: keep it, as a request on a connection that is just being closed fails. Those of uvicorn are the
#: same as those of the clients.
_KEEP_ALIVE: Final = 75

#: Seconds that a stop waits for running requests. Docker kills after ten.
_GRACE: Final = 8


def serve(
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    settings: Settings | None = None,
    debug: bool = False,
    log: LogOptions | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, and print what happens to stdout and stderr.

    A signal during the start stops a wait for the lock at once; a migration that has begun
    is finished first. Call it in the main thread: other threads receive no signals.

    Args:
        host: a name or an address of this machine.
        port: 0 for a free one, which is printed.
        settings: None to read them from the environment.
        debug: log debug messages, and print tracebacks.
        log: what to log; None for the defaults.

    Returns:
        The exit status: 0 after serving and a clean stop, otherwise 1.
    """
    log = log or LogOptions()
    if debug:
        log = log._replace(level="debug")
    with _Stop().handling() as stop, log_to_stderr(log) as printer:
        try:
            settings = settings or load_settings()
            _serve(bind_to=(host, port), settings=settings, stop=stop, log=log, printer=printer)
        except Exception as error:  # noqa: BLE001 - every error is printed here
            printer.error(error, debug=debug)
            return 1
        return 0


def _serve(
    *, bind_to: tuple[str, int], settings: Settings, stop: _Stop, log: LogOptions, printer: Printer
) -> None:
    connections = Connections(raise_limits())
    with ExitStack() as closing:
        # Refused before anything is done.
        nextcloud_settings(listening=bind_to)
        token, proxies = status_token(), trusted_proxies()
        # Bound first, so that nothing is migrated if the port is taken.
        sockets = bind(*bind_to)
        for bound in sockets:
            closing.callback(bound.close)
        printer.line(f"database: {printable(str(settings.database))}")
        if settings.empty:
            logger.warning(
                "%s is empty and counts as unset, so %s is used. Give it a value, or unset it.",
                settings.empty,
                settings.database,
            )
        if settings.fallback_from is not None:
            logger.warning(
                "%s cannot be used here, so %s is used instead. "
                "Set TOKEN_STORAGE_DB to choose another.",
                settings.fallback_from,
                settings.database,
            )
        if unused := without_effect():
            logger.warning(
                "%s %s no effect: NEXTCLOUD_HOST is not set, so nobody can connect.",
                " and ".join(unused),
                "has" if len(unused) == 1 else "have",
            )
        port = sockets[0].getsockname()[1]
        nextcloud = nextcloud_settings(listening=(bind_to[0], port))
        served: ASGIApp = create_app(settings=settings, nextcloud=nextcloud, status_token=token)
        if nextcloud is not None:
            _print_nextcloud(nextcloud, bind_to[0], printer)
        app = _App(RequestIds(AccessLog(served) if log.access else served), stop)
        config = uvicorn.Config(
            app,
            interface="asgi3",
            http=cast("Any", partial(Connection, connections=connections)),
            # Anybody can send X-Forwarded-* headers.
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies,
            lifespan="on",
            loop="asyncio",
            ws="none",
            workers=1,
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=ACCEPTED_AT_ONCE,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
        server = _Server(config, app, printer, nextcloud)
        with stop.calling(server.handle_exit):
            server.run(sockets)
        if app.failure is not None:
            raise app.failure
        if not server.served:
            raise _interrupted(settings.database)
        printer.line("stopped")


def _print_nextcloud(nextcloud: NextcloudSettings, host: str, printer: Printer) -> None:
    printer.line(f"nextcloud: {printable(nextcloud.host)}")
    if nextcloud.read_only:
        printer.line("READ_ONLY: nothing in Nextcloud is changed")
    if nextcloud.share_links:
        none = "no effect, because of READ_ONLY" if nextcloud.read_only else ""
        printer.line(f"SHARE_LINKS: {none or 'assistants can create public links'}")
    if lacks_public_url(host):
        logger.warning(
            "MCP clients on other machines cannot connect: PUBLIC_URL is not set, so they would be "
            "sent to %s. Set it to the https address of this server.",
            printable(nextcloud.public_url),
        )


def _interrupted(database: Path | ServerUrl) -> TokenStorageError:
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


class _Stop:
    """The handler of the signals that stop the program; ``requested`` if one was received."""

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
        """Handle the signals, and restore the previous handlers afterwards. Ignore SIGHUP.

        After a signal they are ignored instead: the program is ending, and another signal
        must not kill it (Python removes its own handlers before it exits).
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        # There is nothing to reload, and a server outlives the terminal that it was started in.
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
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
        #: The bound sockets, on which a start answers that it is not ready.
        self.sockets: list[socket.socket] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # For every frame below: a traceback with locals would show the headers.
        scope = hidden(scope)
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        if task is None:
            raise AssertionError("a lifespan runs in a task")
        starting = True
        answers = AsyncExitStack()

        def cancel() -> None:
            # Once it has started, uvicorn shuts it down.
            if starting:
                task.cancel()

        async def pass_on(message: MutableMapping[str, Any]) -> None:
            nonlocal starting
            starting = False
            await answers.aclose()
            if message["type"].endswith(".failed"):
                message = {**message, "message": ""}
            await send(message)

        def tick() -> None:
            # uvicorn has a timer of its own once it has started.
            if starting:
                loop.call_later(_TICK, tick)

        tick()
        with self._stop.calling(lambda *_: loop.call_soon_threadsafe(cancel)):
            if self._stop.requested:
                await pass_on({"type": "lifespan.startup.failed"})
                return
            try:
                await answers.enter_async_context(answering(self.sockets))
            except (TokenStorageError, asyncio.CancelledError) as error:
                self.failure = error if isinstance(error, TokenStorageError) else None
                await pass_on({"type": "lifespan.startup.failed"})
                return
            try:
                async with answers:
                    await self._app(scope, receive, pass_on)
            except Exception as error:
                self.failure = error
                raise


class _Server(uvicorn.Server):
    """uvicorn's server with this program's output, signals and exit status."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: _App,
        printer: Printer,
        nextcloud: NextcloudSettings | None,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._printer = printer
        self._nextcloud = nextcloud
        self._asking: asyncio.Task[None] | None = None
        self.served = False

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Do nothing: :class:`_Stop` handles the signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start and print the outcome, or set ``should_exit``."""
        self._app.sockets = sockets or []
        try:
            await super().startup(sockets)
        except SystemExit:
            # uvicorn raises it if the lifespan failed.
            self.should_exit = True
            return
        except OSError as error:
            # The port is this program's since the start began, but the system can refuse more.
            [*_, (host, port)] = [bound.getsockname()[:2] for bound in sockets or ()]
            self._app.failure = cannot_listen(host, port, error)
            self.should_exit = True
            await self.lifespan.shutdown()
            return
        outcome = self.lifespan.state["storage"].outcome
        for line in outcome_lines(outcome):
            self._printer.line(line)
        if not self.should_exit:
            self.served = True
            if self._nextcloud is not None:
                url = printable(self._nextcloud.public_url)
                self._printer.line(f"MCP clients connect to {url}/mcp")
                # The end of the loop cancels it.
                self._asking = asyncio.create_task(warn_if_unusable(self._nextcloud))
            for bound in sockets or ():
                bound.listen(QUEUE)
                self._printer.line(f"listening on http://{shown(*bound.getsockname()[:2])}")
