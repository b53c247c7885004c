"""The operator's pages ``/status`` and ``/metrics``, and who may see them."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from nextcloud_mcp_server.secret import Secret, hidden
from nextcloud_mcp_server.server.health import NO_STORE
from nextcloud_mcp_server.server.status import Status, status_page
from nextcloud_mcp_server.settings.nextcloud import LOOPBACK

if TYPE_CHECKING:
    from starlette.requests import Request

_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Headers of a proxy: then the peer is not the client.
_FORWARDED: Final = ("forwarded", "via", "x-real-ip")

Handler = Callable[["Request"], Awaitable[Response]]


def operator_routes(token: str | None, public_url: str) -> list[Route]:
    """Return the routes of the operator's pages.

    Args:
        token: who sends it as a bearer token may see them. Without one, only programs on this
            machine may.
        public_url: of this server; empty if it has none. If it is not of this machine, there is
            a proxy, whose requests come from this machine too: then a token is needed.
    """
    token = hidden(token)
    is_local = not public_url or urlsplit(public_url).hostname in LOOPBACK

    def guarded(handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            if token is None and not (is_local and _is_from_here(request)):
                wrong = "Set STATUS_TOKEN to see this from another machine or behind a proxy."
                return JSONResponse({"error": wrong}, 403, NO_STORE)
            if token is not None and not _has(request, token):
                headers = {**NO_STORE, "WWW-Authenticate": 'Bearer realm="status"'}
                return JSONResponse({"error": "Unauthorized"}, 401, headers)
            return await handler(request)

        return answer

    return [Route("/status", guarded(_status)), Route("/metrics", guarded(_metrics))]


def _has(request: Request, token: str) -> bool:
    given = Secret(request.headers.get("Authorization", ""))
    # Compared even if the scheme is another one.
    same = hmac.compare_digest(given.partition(" ")[2].strip().encode(), token.encode())
    return same and given.partition(" ")[0].lower() == "bearer"


def _is_from_here(request: Request) -> bool:
    """Return whether the client is a program on this machine, and no page of another site.

    A page can make its own host name lead to 127.0.0.1: then that name is in the Host header.
    """
    if any(name in _FORWARDED or name.startswith("x-forwarded-") for name in request.headers):
        return False
    try:
        name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
        peer = ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    return peer.is_loopback and name in LOOPBACK


async def _status(request: Request) -> Response:
    status: Status = request.state.status
    facts = await status.facts()
    if "application/json" in request.headers.get("Accept", ""):
        return JSONResponse(facts, headers=NO_STORE)
    return status_page(facts)


async def _metrics(request: Request) -> Response:
    status: Status = request.state.status
    return Response(await status.metrics(), headers=NO_STORE, media_type=_PROMETHEUS)
