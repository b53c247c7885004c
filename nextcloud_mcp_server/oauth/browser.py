"""The cookie that binds a sign-in to the browser in which it began."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class BrowserCookie:
    """The id of a browser.

    Args:
        https: whether browsers use it. Then no other host can set the cookie, because of the
            prefix of its name.
    """

    def __init__(self, *, https: bool) -> None:
        self._https = https
        self._name = "__Host-nextcloud-mcp" if https else "nextcloud-mcp"

    def read(self, request: Request) -> str | None:
        """Return the id of the browser; None if it has none."""
        value = request.cookies.get(self._name, "")
        return value if re.fullmatch(r"[A-Za-z0-9_-]{43}", value) else None

    def write(self, response: Response, value: str) -> None:
        """Send the browser its id. It forgets it when it is closed."""
        response.set_cookie(
            self._name,
            value,
            path="/",
            secure=self._https,
            httponly=True,
            # A client's request comes from another site.
            samesite="lax",
        )
