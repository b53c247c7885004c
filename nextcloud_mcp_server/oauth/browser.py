"""The cookies of a browser, and the tokens of the forms that it was shown."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from starlette.datastructures import FormData

from nextcloud_mcp_server.pages.frame import problem
from nextcloud_mcp_server.secret import Secret, hidden

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class BrowserCookie:
    """A secret of a browser, which binds to it what begins there.

    Args:
        public_url: of this server. With https no other host can set the cookie, because of the
            prefix of its name.
        name: the end of its name.
    """

    def __init__(self, public_url: str, name: str = "") -> None:
        self._origin = public_url
        self._https = public_url.startswith("https:")
        self._name = f"{'__Host-' if self._https else ''}nextcloud-mcp{name}"

    def read(self, request: Request) -> Secret | None:
        """Return the value that the browser has; None if it has none."""
        value = Secret(request.cookies.get(self._name, ""))
        return value if re.fullmatch(r"[A-Za-z0-9_-]{43}", value) else None

    def write(self, response: Response, value: Secret) -> None:
        """Send the browser its value. It forgets it when it is closed."""
        response.set_cookie(
            self._name,
            value.reveal(),
            path="/",
            secure=self._https,
            httponly=True,
            # A client's request comes from another site.
            samesite="lax",
        )

    def delete(self, response: Response) -> None:
        """Make the browser forget its value."""
        response.delete_cookie(
            self._name, path="/", secure=self._https, httponly=True, samesite="lax"
        )

    def form_token(self, request: Request, *purpose: str) -> Secret:
        """Return the token of a form: only a page of this server, in this browser, has it."""
        return self.token_for(self.read(request) or Secret(), *purpose)

    def token_for(self, value: Secret, *purpose: str) -> Secret:
        """Return the token of a form for the browser with this value."""
        # Joined, as an f-string would hide a Secret.
        code = hmac.new(value.encode(), " ".join(purpose).encode(), hashlib.sha256)
        return Secret(code.hexdigest())

    def is_own_form(self, request: Request, form: Form, *purpose: str) -> bool:
        """Return whether a form was sent by a page of this server in this browser."""
        value = self.read(request)
        if value is None or request.headers.get("Origin") not in {None, self._origin}:
            return False
        given = form.secret("csrf").encode()
        return hmac.compare_digest(given, self.token_for(value, *purpose).encode())

    def foreign_form(self, remedy: str) -> Response:
        """Return the page for a form that is not of this server."""
        return problem(
            "This form is not from this page",
            "The request did not come from the page that this server has shown.",
            f"{remedy} Use this server at {self._origin}.",
            status=403,
        )


class Form(FormData):
    """The fields of a form that was sent; the repr hides them."""

    @classmethod
    async def of(cls, request: Request) -> Form:
        """Return the form of a request."""
        return cls(await request.form())

    def __repr__(self) -> str:
        return "<form>"

    def text(self, name: str) -> str:
        """Return the text of a field; empty if there is none."""
        return self.secret(name).reveal()

    def secret(self, name: str) -> Secret:
        """Return the text of a field hidden; empty if there is none."""
        value = hidden(self.get(name))
        return value if isinstance(value, Secret) else Secret()

    def texts(self, name: str) -> list[str]:
        """Return the texts of all fields of a name."""
        return [one for one in self.getlist(name) if isinstance(one, str)]


def session_of(request: Request) -> Secret:
    """Return the id of the sign-in in the address of a page; empty if there is none."""
    return Secret(request.query_params.get("session", ""))
