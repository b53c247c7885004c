"""The Starlette application: the token store's lifespan, and two questions about health."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from nextcloud_mcp_server.lifespan import TokenStoreState, token_store_lifespan
from nextcloud_mcp_server.server.health import CHECK_INTERVAL, NO_STORE, NOT_OPEN, Readiness
from nextcloud_mcp_server.settings import Settings

if TYPE_CHECKING:
    from starlette.requests import Request


class AppState(TokenStoreState):
    """What a handler of this application finds in ``request.state``."""

    readiness: Readiness


def create_app(
    database: str | os.PathLike[str] | None = None,
    *,
    encryption_key: str | bytes | Sequence[str | bytes] | None = None,
    settings: Settings | None = None,
    check_interval: float = CHECK_INTERVAL,
) -> Starlette:
    """The server's application: ``GET /health/live``, ``GET /health/ready``, JSON errors.

    Args:
        database: a path, an SQLite URL, or None for what the settings say.
        encryption_key: one Fernet key or several, newest first; None for the settings'.
        settings: None to read them from the environment when the application starts.
        check_interval: seconds for which ``/health/ready`` gives the same answer again.
    """
    opened = token_store_lifespan(database, encryption_key=encryption_key, settings=settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[AppState]:
        async with opened(app) as state:
            storage = state["storage"]
            if storage.outcome is None:
                raise AssertionError("an open store has an outcome")
            readiness = Readiness(
                storage.outcome.database,
                interval=check_interval,
                read_only=bool(storage.outcome.read_only),
            )
            try:
                yield {"storage": storage, "readiness": readiness}
            finally:
                # Before the store: the last to close the file takes its WAL away, and a
                # look is not allowed to.
                await readiness.close()

    return Starlette(
        lifespan=lifespan,
        routes=[Route("/health/live", _live), Route("/health/ready", _ready)],
        exception_handlers={HTTPException: _refused},
    )


async def _live(request: Request) -> JSONResponse:
    return JSONResponse({"status": "live"}, headers=NO_STORE)


async def _ready(request: Request) -> JSONResponse:
    readiness: Readiness | None = getattr(request.state, "readiness", None)
    verdict = NOT_OPEN if readiness is None else await readiness.verdict()
    return verdict.response()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
