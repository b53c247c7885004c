"""The id of a request: in the header of its answer, and in each record that it logs."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import MutableHeaders

from nextcloud_mcp_server.secret import hidden

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HEADER: Final = "X-Request-ID"

#: The id of the request that is being answered; empty outside of one.
request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")


class RequestIds:
    """Gives each request an id. One that the client sends is ignored: it could be anything."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        scope = hidden(scope)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        mine = secrets.token_hex(8)

        async def with_id(message: MutableMapping[str, Any]) -> None:
            message = hidden(message)
            if message["type"] == "http.response.start":
                message.setdefault("headers", ())
                MutableHeaders(scope=message)[HEADER] = mine
            await send(message)

        reset = request_id.set(mine)
        try:
            await self._app(scope, receive, with_id)
        finally:
            request_id.reset(reset)
