"""The stand-in as an ASGI application: who is asking, and which part answers."""

from __future__ import annotations

import secrets
from base64 import b64decode
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.support.nextcloud import groupware, rest, webdav, xml
from tests.support.nextcloud.state import ATTEMPTS, Seen, State, User

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_COOKIE = "oc_sessionPassphrase"


class Application:
    """A Nextcloud of a state, at the root of its address or in a folder like ``/cloud``."""

    def __init__(self, state: State, prefix: str = "") -> None:
        self.state = state
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["state"] = {"prefix": self.prefix}
        request = Request(scope, receive)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        raw = request.scope["raw_path"].decode("ascii")
        headers = dict(request.headers)
        self.state.seen.append(Seen(request.method, raw, headers))
        if not raw.startswith(f"{self.prefix}/"):
            return Response("Not Found", 404)
        path = raw.removeprefix(self.prefix)
        if self.state.redirect_to:
            return RedirectResponse(self.state.redirect_to + path, 301)
        if path == "/status.php":
            return JSONResponse(
                {
                    "installed": True,
                    "maintenance": self.state.maintenance,
                    "productname": "Nextcloud",
                }
            )
        if self.state.maintenance:
            return self._maintenance(path)
        if path.startswith("/index.php/login/v2"):
            return await rest.login_flow(
                self.state, path.removeprefix("/index.php/login/v2").rstrip("/"), request
            )
        return await self._with_user(path, request)

    def _maintenance(self, path: str) -> Response:
        headers = {"X-Nextcloud-Maintenance-Mode": "1"}
        if path.startswith("/remote.php"):
            message = "System is in maintenance mode."
            response = xml.failure(503, "Sabre\\DAV\\Exception\\ServiceUnavailable", message)
        elif path.startswith("/ocs"):
            response = rest.envelope(None, 503, "Service unavailable")
        else:
            response = Response("maintenance", 503, {"Retry-After": "120"}, "text/html")
        response.headers.update(headers)
        return response

    async def _with_user(self, path: str, request: Request) -> Response:
        dav = path.startswith("/remote.php/dav")
        cookie = request.cookies.get(_COOKIE, "")
        given = _credentials(request)
        user = self.state.users.get(self.state.sessions.get(cookie, ""))
        fresh = False
        # A session wins: the password beside it is not looked at.
        if user is None and given is not None:
            if self.state.wrong_logins > ATTEMPTS:
                return _throttled(dav=dav)
            user = self.state.find(*given)
            fresh = user is not None
            if user is None:
                self.state.wrong_logins += 1
        if user is not None and not user.enabled:
            return _disabled(dav=dav)
        if user is None and (given is not None or not path.startswith("/ocs")):
            return _unauthorized(dav=dav)
        response = await self._dispatch(user, given[1] if given else "", path, request)
        if fresh and user is not None:
            session = secrets.token_hex(16)
            self.state.sessions[session] = user.id
            response.set_cookie(_COOKIE, session, path=self.prefix or "/", httponly=True)
        return response

    async def _dispatch(
        self, user: User | None, password: str, path: str, request: Request
    ) -> Response:
        if path.startswith("/ocs/v2.php/"):
            below = path.removeprefix("/ocs/v2.php")
            return await rest.ocs(self.state, user, password, below, request)
        assert user is not None
        notes = "/index.php/apps/notes/api/v1/notes"
        if path.startswith(notes):
            if not self.state.notes_enabled:
                # What is no route, for who wants JSON.
                return Response(status_code=404)
            return await rest.notes(user, path.removeprefix(notes), request)
        if not path.startswith("/remote.php/dav"):
            return Response("<html>Page not found</html>", 404, media_type="text/html")
        below = path.removeprefix("/remote.php/dav").strip("/")
        return await self._dav(user, tuple(map(unquote, below.split("/"))), request)

    async def _dav(self, user: User, names: tuple[str, ...], request: Request) -> Response:
        if request.method == "SEARCH":
            return await webdav.search(user, request)
        match names:
            case ("files", owner, *path) if owner == user.id:
                return await webdav.answer(self.state, user, tuple(path), request)
            case ("calendars", owner, *path) if owner == user.id:
                return await groupware.calendars(user, tuple(path), request)
            case ("addressbooks", "users", owner, *path) if owner == user.id:
                return await groupware.books(user, tuple(path), request)
        return xml.failure(404, "Sabre\\DAV\\Exception\\NotFound", "Principal not found")


def _credentials(request: Request) -> tuple[str, str] | None:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    if kind != "Basic":
        return None
    name, _, password = b64decode(value).decode().partition(":")
    return name, password


def _throttled(*, dav: bool) -> Response:
    if dav:
        return xml.failure(429, "OCA\\DAV\\Connector\\Sabre\\Exception\\TooManyRequests", "")
    return rest.envelope([], 429, "Reached maximum delay")


def _disabled(*, dav: bool) -> Response:
    if dav:
        message = "OC\\User\\LoginException: Account disabled"
        return xml.failure(503, "Sabre\\DAV\\Exception\\ServiceUnavailable", message)
    return rest.refused()


def _unauthorized(*, dav: bool) -> Response:
    if dav:
        message = "No public access to this resource., Username or password was incorrect"
        response = xml.failure(401, "Sabre\\DAV\\Exception\\NotAuthenticated", message)
        response.headers["WWW-Authenticate"] = 'Basic realm="Nextcloud", charset="UTF-8"'
        return response
    return rest.refused()
