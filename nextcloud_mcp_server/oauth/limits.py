"""The limits of every route: how often an address may ask, and what may be in a body."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, request_response

from nextcloud_mcp_server.pages.frame import problem
from nextcloud_mcp_server.secret import SecretBytes, hidden

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The types of a body.
FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"

#: The most bytes of a body, and digits of such a number.
_LARGEST: Final = 64 * 1024
_DIGITS: Final = 10

#: Addresses that are remembered.
_MOST: Final = 10_000

Handler = Callable[[Request], Awaitable[Response]]


def guarded(
    handler: Handler, *, burst: int = 300, per_second: float = 50, media: str = ""
) -> RateLimit:
    """Return the application of a route with its limits. Every route of this package has them.

    The default is for what people share who are behind one address: a page that waits asks every
    two seconds.

    Args:
        handler: answers the request.
        burst: as for :class:`RateLimit`.
        per_second: the same.
        media: the type of the body, :data:`FORM` or :data:`JSON`; without one no body is read.
    """
    app = request_response(handler)
    limited = _Body(app, media) if media else _without_body(app)
    return RateLimit(limited, burst=burst, per_second=per_second)


def page_route(
    path: str, handler: Handler, *, acts: bool = False, burst: int = 300, per_second: float = 50
) -> Route:
    """Return the route of a page.

    Args:
        path: of the page.
        handler: returns the page.
        acts: whether loading it changes something, such as that a sign-in is finished. Then only
            a person who looks at the page may load it: a HEAD and a prefetch are refused.
        burst: as for :class:`RateLimit`.
        per_second: the same.
    """

    async def load(request: Request) -> Response:
        if "prefetch" in request.headers.get("Sec-Purpose", ""):
            # The browser loads it again when the person opens it.
            return Response(status_code=503, headers={"Cache-Control": "no-store"})
        return await handler(request)

    limited = guarded(load if acts else handler, burst=burst, per_second=per_second)
    route = Route(path, limited, methods=["GET"])
    if acts and route.methods is not None:
        route.methods.discard("HEAD")
    return route


def form_route(path: str, handler: Handler) -> Route:
    """Return the route of a form of a page."""
    return Route(path, guarded(handler, burst=60, per_second=2, media=FORM), methods=["POST"])


class RateLimit:
    """Answers 429 to an address that sends more than ``burst`` requests at once.

    Args:
        app: what is limited.
        burst: requests at once.
        per_second: requests in the long run.
    """

    def __init__(self, app: ASGIApp, *, burst: int, per_second: float) -> None:
        self._app = app
        self._burst = burst
        self._per_second = per_second
        #: The requests that are left, and when that was computed.
        self._left: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        scope = hidden(scope)
        address = (scope.get("client") or ("",))[0]
        if (wait := self._wait(_network(address), time.monotonic())) == 0:
            await self._app(scope, receive, send)
            return
        await _too_many(Request(scope), math.ceil(wait))(scope, receive, send)

    def _wait(self, network: str, now: float) -> float:
        """Return the seconds until a request is allowed; count one if it is now."""
        left = self._now(network, now)
        if len(self._left) >= _MOST and network not in self._left:
            # Those that gain least by being forgotten: most of them have their burst again.
            for full in sorted(self._left, key=lambda one: -self._now(one, now))[: _MOST // 2]:
                del self._left[full]
        self._left[network] = (left - 1 if left >= 1 else left, now)
        return 0 if left >= 1 else (1 - left) / self._per_second

    def _now(self, network: str, now: float) -> float:
        """Return how many requests are left."""
        left, at = self._left.get(network, (float(self._burst), now))
        return min(float(self._burst), left + (now - at) * self._per_second)


def _network(address: str) -> str:
    """Return what counts as one address: of IPv6 a /64, as a single machine has one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or f"{int(parsed) >> 64:x}::/64")


def _too_many(request: Request, wait: int) -> Response:
    """Return the answer to a request over the limit."""
    response: Response
    if "text/html" in request.headers.get("Accept", ""):
        response = problem(
            "Too many requests",
            "Your address has sent too many requests to this page.",
            f"Wait {wait} seconds, then load this page again.",
            status=429,
        )
    else:
        response = _error(429, "temporarily_unavailable", "Too many requests")
    response.headers["Retry-After"] = str(wait)
    return response


class _Body:
    """Reads the body, of one type and up to a size, before the application does.

    Starlette's own parsers have no limit, and write the files of a multipart form to the disk.
    """

    def __init__(self, app: ASGIApp, media: str) -> None:
        self._app = app
        self._media = media

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or refuse it."""
        given = Headers(scope=scope).get("Content-Type", "").partition(";")[0].strip().lower()
        declared = Headers(scope=scope).get("Content-Length", "")
        if given != self._media and (given or declared != "0"):
            await _error(415, "invalid_request", f"Send {self._media}")(scope, receive, send)
            return
        try:
            body = await _read(declared, receive)
        except _TooLargeError:
            await _error(413, "invalid_request", "The body is too large")(scope, receive, send)
            return
        if body is None:
            return
        await self._app(_typed(scope, self._media), _replay(body), send)


class _TooLargeError(Exception):
    """A body has more bytes than are allowed."""


def _typed(scope: Scope, media: str) -> Scope:
    """Return a scope whose content has this type and nothing more.

    The parsers look at the whole header, which can name a charset that does not exist.
    """
    headers = hidden(scope["headers"])
    others = hidden([one for one in headers if one[0] != b"content-type"])
    plain = ((bytes(name), bytes(value)) for name, value in others)
    typed: Scope = hidden({**scope, "headers": [*plain, (b"content-type", media.encode("ascii"))]})
    return typed


async def _read(declared: str, receive: Receive) -> bytes | None:
    """Return a body; None if the client has left. Raise if it is too large, before it is read."""
    if declared.isdecimal() and (len(declared) > _DIGITS or int(declared) > _LARGEST):
        raise _TooLargeError
    parts: list[bytes] = []
    size = 0
    while (message := hidden(await receive()))["type"] == "http.request":
        parts.append(hidden(message.get("body", b"")))
        size += len(parts[-1])
        if size > _LARGEST:
            raise _TooLargeError
        if not message.get("more_body", False):
            return SecretBytes(b"".join(parts))
    return None


def _replay(body: bytes) -> Receive:
    """Return what gives an application a body that has been read."""
    body = hidden(body)

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _without_body(app: ASGIApp) -> ASGIApp:
    """Return an application to which every body is empty."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, _replay(b""), send)

    return answer


def _error(status: int, error: str, description: str) -> JSONResponse:
    content = {"error": error, "error_description": description}
    return JSONResponse(content, status, {"Cache-Control": "no-store"})
