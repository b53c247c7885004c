"""Pages at addresses that programs use, for people who open one in a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.routing import Match, Route

from nextcloud_mcp_server.secret import hidden

if TYPE_CHECKING:
    from starlette.types import Scope


def is_browser(headers: Headers) -> bool:
    """Return whether a request asks for a page. A client of MCP asks for events, too."""
    accepted = headers.get("Accept", "")
    return "text/html" in accepted and "text/event-stream" not in accepted


class PageRoute(Route):
    """A route for browsers alone; what else comes to its path is for the next route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return no match for a request that does not ask for a page with GET."""
        scope = hidden(scope)
        match, child = super().matches(scope)
        asks = match is Match.FULL and is_browser(Headers(scope=scope))
        return (match, child) if asks else (Match.NONE, {})
