"""The Starlette application: the token store's lifespan, a page and two health checks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.lifespan import TokenStoreState, token_store_lifespan
from nextcloud_mcp_server.pages.browsers import is_browser
from nextcloud_mcp_server.pages.frame import problem
from nextcloud_mcp_server.server import failures
from nextcloud_mcp_server.server.health import (
    CHECK_INTERVAL,
    NO_STORE,
    NOT_OPEN,
    Health,
    HealthCheck,
)
from nextcloud_mcp_server.server.hosts import HostCheck
from nextcloud_mcp_server.server.metrics import Metrics
from nextcloud_mcp_server.server.operator import operator_routes
from nextcloud_mcp_server.server.page import page
from nextcloud_mcp_server.server.status import Status
from nextcloud_mcp_server.settings import Settings
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute


_NOT_FOUND: Final = 404

_LIVE: Final = "/health/live"
_READY: Final = "/health/ready"


class AppState(TokenStoreState):
    """The attributes of ``request.state`` in this application."""

    health: HealthCheck
    status: Status


def create_app(
    database: str | os.PathLike[str] | None = None,
    *,
    encryption_key: str | bytes | Sequence[str | bytes] | None = None,
    settings: Settings | None = None,
    check_interval: float = CHECK_INTERVAL,
    nextcloud: NextcloudSettings | None = None,
    status_token: str | None = None,
) -> Starlette:
    """Return the application: the page ``/``, the health checks, and JSON errors.

    ``/status`` and ``/metrics`` are for the operator: with ``status_token``, or from loopback.

    Takes the arguments of :func:`~nextcloud_mcp_server.lifespan.token_store_lifespan`;
    ``check_interval`` is the seconds for which ``/health/ready`` repeats its last result. With
    ``nextcloud``, people connect their Nextcloud, and MCP clients find its tools at ``/mcp``.
    """
    metrics = Metrics()
    connected = _connected(nextcloud, metrics)
    public_url = "" if nextcloud is None else nextcloud.public_url
    opened = token_store_lifespan(database, encryption_key=encryption_key, settings=settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[AppState]:
        async with opened(app) as state:
            storage = state["storage"]
            if storage.outcome is None:
                raise AssertionError("an open store has an outcome")
            database = connect(storage.outcome.database)
            health = HealthCheck(
                database,
                interval=check_interval,
                still_open=storage.check,
                has_primary=storage.require_primary,
            )
            status = Status(database, storage, health, metrics)
            storage.observe(metrics.observe)
            try:
                async with connected.running(storage):
                    yield {"storage": storage, "health": health, "status": status}
            finally:
                # Before the store: the last connection to close removes the WAL, and the
                # one of a check must not be the last.
                await health.close()

    app = Starlette(
        lifespan=lifespan,
        routes=[
            # First: with a Nextcloud, "/" is a page for people.
            *connected.routes,
            Route("/", _page),
            Route("/health", _checks),
            Route(_LIVE, _live),
            Route(_READY, _ready),
            *operator_routes(status_token, public_url),
        ],
        middleware=[failures.FIRST, *connected.middleware],
        exception_handlers={HTTPException: _refused, **failures.HANDLERS},
    )
    # A redirect would repeat the Host header, which anybody can set.
    app.router.redirect_slashes = False
    return app


@dataclass(frozen=True)
class Connected:
    """What an application gets in addition if people can connect their Nextcloud.

    ``running`` takes the open store, and is entered while the application runs.
    """

    routes: Sequence[BaseRoute] = ()
    middleware: Sequence[Middleware] = ()
    running: Callable[[RefreshTokenStorage], AbstractAsyncContextManager[None]] = lambda _: (
        nullcontext()
    )


def _connected(nextcloud: NextcloudSettings | None, metrics: Metrics) -> Connected:
    if nextcloud is None:
        return Connected()
    # Half a second and 35 MB, which the other servers save.
    from nextcloud_mcp_server.oauth.server import AuthorizationServer  # noqa: PLC0415
    from nextcloud_mcp_server.server.mcp_endpoint import create_mcp  # noqa: PLC0415
    from nextcloud_mcp_server.server.people import People  # noqa: PLC0415

    authorization = AuthorizationServer(nextcloud, count=metrics.count)
    people = People(nextcloud, authorization.provider)
    mcp = create_mcp(authorization, people)
    protected = authorization.protected(mcp)

    @asynccontextmanager
    async def running(storage: RefreshTokenStorage) -> AsyncIterator[None]:
        async with authorization.running(storage), people.running(), mcp.session_manager.run():
            yield

    # Ours first: the SDK has a route of its own for the metadata of the resource.
    return Connected(
        [*authorization.routes, *protected.routes],
        [Middleware(HostCheck, public_url=nextcloud.public_url), *protected.user_middleware],
        running,
    )


async def _page(request: Request) -> HTMLResponse:
    return page(await _health(request))


async def _checks(request: Request) -> JSONResponse:
    return JSONResponse({"checks": {"live": _LIVE, "ready": _READY}}, headers=NO_STORE)


async def _live(request: Request) -> JSONResponse:
    return JSONResponse({"status": "live"}, headers=NO_STORE)


async def _ready(request: Request) -> JSONResponse:
    return (await _health(request)).response()


async def _health(request: Request) -> Health:
    check: HealthCheck | None = getattr(request.state, "health", None)
    return NOT_OPEN if check is None else await check.check()


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == _NOT_FOUND and is_browser(request.headers):
        return problem(
            "There is no such page",
            "The address is wrong, or the page is not there any more.",
            "Go on from the first page.",
            status=_NOT_FOUND,
        )
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
