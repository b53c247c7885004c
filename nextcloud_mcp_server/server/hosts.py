"""Which names the server has: under another one it answers nothing, against DNS rebinding.

A page of another site can make its own host name lead to this machine. Then its requests have
that name in their Host header, and its browser counts their answers as its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from nextcloud_mcp_server.pages.frame import problem
from nextcloud_mcp_server.secret import hidden
from nextcloud_mcp_server.settings.nextcloud import LOOPBACK

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: Probes and Prometheus reach these by the address of a container. The first tell nothing, and
#: the others check the name themselves, or ask for a token.
ANY_NAME: Final = frozenset({"/health", "/health/live", "/health/ready", "/status", "/metrics"})

_MISDIRECTED: Final = 421
_PORTS: Final = {"http": 80, "https": 443}


class HostCheck:
    """Answers 421 to a request for another host than that of a URL, or loopback with any port.

    Args:
        app: what is guarded, except for :data:`ANY_NAME`.
        public_url: of this server.
    """

    def __init__(self, app: ASGIApp, public_url: str) -> None:
        self._app = app
        self._public_url = public_url
        self._mine = _place(public_url)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        scope = hidden(scope)
        if scope["type"] != "http" or scope["path"] in ANY_NAME or self._is_mine(scope):
            await self._app(scope, receive, send)
            return
        await self._refusal(Request(scope))(scope, receive, send)

    def _is_mine(self, scope: Scope) -> bool:
        host = Headers(scope=scope).get("Host", "")
        scheme = urlsplit(self._public_url).scheme
        try:
            place = _place(f"{scheme}://{host}")
        except ValueError:
            return False
        return "@" not in host and (place == self._mine or place[0] in LOOPBACK)

    def _refusal(self, request: Request) -> Response:
        if "text/html" not in request.headers.get("Accept", ""):
            return PlainTextResponse("Invalid Host header", _MISDIRECTED)
        return problem(
            "This is not the address of this server",
            "The request was for another host.",
            f"Use this server at {self._public_url}.",
            status=_MISDIRECTED,
            link=f"{self._public_url}/",
        )


def _place(url: str) -> tuple[str, int | None]:
    """Return the host and the port of a URL.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]
