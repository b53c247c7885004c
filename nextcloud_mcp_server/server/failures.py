"""The answer to a request that needs the token store or Nextcloud while it cannot be used.

Each gets it in its own form: a person a page, an MCP client an error of JSON-RPC, and every other
client an error of OAuth. The reason is in the log alone, because it names the database.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import JSONResponse, Response

from nextcloud_mcp_server.errors import (
    SERVER_PROBLEM,
    STORE_UNAVAILABLE,
    TokenStorageError,
    lacks_key,
    printable,
)
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.pages.frame import FIRST_PAGE, problem
from nextcloud_mcp_server.server.health import NO_STORE
from nextcloud_mcp_server.server.request_id import request_id
from nextcloud_mcp_server.server.starting import RETRY_AFTER

if TYPE_CHECKING:
    from starlette.requests import Request

logger = logging.getLogger(__name__)

_BAD_GATEWAY: Final = 502
_UNAVAILABLE: Final = 503

#: "Internal error" of JSON-RPC 2.0.
_INTERNAL_ERROR: Final = -32603


async def failed(request: Request, error: Exception) -> Response:
    """Return the answer to a request that failed with ``error``, and log why."""
    if not isinstance(error, TokenStorageError):
        raise error
    if isinstance(error, NextcloudError):
        return _nextcloud_failed(error, request_id.get(), _page_again(request))
    logger.error(
        "%s %s was not answered: %s %s [%s]",
        request.method,
        request.url.path,
        printable(error.message),
        printable(error.remedy),
        error.code,
    )
    accepted = request.headers.get("Accept", "")
    if "text/html" in accepted:
        response: Response = _page(request_id.get(), _page_again(request), lacks_key(error))
    else:
        response = _answer(accepted, request_id.get(), lacks_key(error))
    response.headers["Retry-After"] = str(RETRY_AFTER)
    return response


def _nextcloud_failed(error: NextcloudError, mine: str, again: str) -> Response:
    """Return the page for a sign-in, which has logged the error."""
    remedy = f"{error.remedy} The id of this request is {mine}." if mine else error.remedy
    return problem(
        "Nextcloud cannot be reached",
        error.message,
        remedy,
        status=_BAD_GATEWAY,
        link=again,
        link_text="Try again",
    )


def _page_again(request: Request) -> str:
    """Return where a person can try again: the page itself, or the page of the form."""
    if request.method == "GET":
        return ""
    came = urlsplit(request.headers.get("Referer", ""))
    if came.netloc != request.url.netloc or came.path.startswith("//"):
        return FIRST_PAGE
    return f"{came.path or FIRST_PAGE}?{came.query}" if came.query else came.path or FIRST_PAGE


def _page(mine: str, again: str, lacks_key: bool) -> Response:
    told = f" the id of this request: {mine}" if mine else " the time"
    if lacks_key:
        return problem(
            "This server has a problem",
            SERVER_PROBLEM,
            f"Tell the operator of this server{told}.",
            status=_UNAVAILABLE,
            link=again,
            link_text="Try again",
        )
    return problem(
        "Try again in a moment",
        STORE_UNAVAILABLE,
        "Wait a minute, then load this page again. If that does not help, tell the operator of "
        f"this server{told}.",
        status=_UNAVAILABLE,
        link=again,
        link_text="Try again",
    )


def _answer(accepted: str, mine: str, lacks_key: bool) -> Response:
    message = SERVER_PROBLEM if lacks_key else f"{STORE_UNAVAILABLE} Try again in a few seconds."
    if mine:
        message = f"{message} The id of this request is {mine}."
    body: dict[str, object] = {"error": "server_error", "error_description": message}
    # Only the protocol of MCP over HTTP asks for both.
    if "text/event-stream" in accepted:
        detail = {"code": _INTERNAL_ERROR, "message": message}
        body = {"jsonrpc": "2.0", "id": None, "error": detail}
    return JSONResponse(body, _UNAVAILABLE, NO_STORE)


#: For an application: beside the handlers, which add the headers of a route, one that comes before
#: the check of a token, which is not in a route.
HANDLERS: Final = {TokenStorageError: failed}
FIRST: Final = Middleware(ExceptionMiddleware, handlers=HANDLERS)
