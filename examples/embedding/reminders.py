"""A service that reminds people. It keeps their grants in the token store."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.lifespan import TokenStoreState, token_store_lifespan

#: All that a reminder needs.
SCOPES = ("calendar.read",)


async def enrol(storage: RefreshTokenStorage, user: str, grant: str) -> None:
    """Store a user's grant; from then on they are reminded."""
    await storage.store_refresh_token(user, grant, scopes=SCOPES)


async def enrolled(storage: RefreshTokenStorage) -> list[str]:
    """Return the users who are reminded."""
    return await storage.list_user_ids()


async def put_grant(request: Request[TokenStoreState]) -> Response:
    """``PUT /grants/{user}`` with the grant as its body."""
    grant = (await request.body()).decode()
    await enrol(request.state["storage"], request.path_params["user"], grant)
    return Response(status_code=204)


async def get_grants(request: Request[TokenStoreState]) -> Response:
    """``GET /grants``: the users who are reminded, without their secrets."""
    return JSONResponse(await enrolled(request.state["storage"]))


#: The lifespan upgrades the database before the first request.
app = Starlette(
    routes=[
        Route("/grants/{user}", put_grant, methods=["PUT"]),
        Route("/grants", get_grants),
    ],
    lifespan=token_store_lifespan,
)
