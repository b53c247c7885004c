"""The endpoints of OAuth: the SDK's handlers, with what they lack, and our own for the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

from mcp.server.auth.handlers.authorize import AuthorizationHandler
from mcp.server.auth.handlers.register import RegistrationHandler
from mcp.server.auth.handlers.token import TokenHandler
from mcp.server.auth.middleware.client_auth import ClientAuthenticator
from mcp.server.auth.provider import construct_redirect_uri
from mcp.server.auth.settings import ClientRegistrationOptions
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from nextcloud_mcp_server.auth.mcp_tokens import new_token
from nextcloud_mcp_server.oauth import scopes
from nextcloud_mcp_server.oauth.browser import BrowserCookie, Form
from nextcloud_mcp_server.oauth.clients import is_loopback, shown_target
from nextcloud_mcp_server.oauth.documents import BusyError
from nextcloud_mcp_server.oauth.limits import FORM, JSON, Handler, guarded, page_route
from nextcloud_mcp_server.oauth.provider import CONSENT, MCP, Provider, browser
from nextcloud_mcp_server.pages.frame import page, problem
from nextcloud_mcp_server.pages.html import html
from nextcloud_mcp_server.secret import Secret

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

_NO_STORE: Final = {"Cache-Control": "no-store"}
_BAD_REQUEST: Final = 400

_ERROR: Final = """
<p class="problem">Its request was refused: {reason}.</p>
<p>Nothing was connected. If you have just started this in the client yourself, go back to it, and
add this server to it again. It is at: {target}.</p>
<div class="actions">
<a class="button" href="{url}" rel="noreferrer">Go back to {target}</a>
</div>
"""


def endpoints(provider: Provider) -> list[BaseRoute]:
    """Return the routes of the metadata, and of authorize, token, register and revoke."""
    token = TokenHandler(provider, ClientAuthenticator(provider))
    register = RegistrationHandler(provider, ClientRegistrationOptions(enabled=True))
    server = _server_metadata(provider)
    resource = _resource_metadata(provider)
    described = "/.well-known/oauth-protected-resource"
    return [
        _document("/.well-known/oauth-authorization-server", server),
        # Clients look below the path of the resource, and some at the root alone.
        _document(f"{described}{MCP}", resource),
        _document(described, resource),
        page_route("/authorize", _authorize(provider), acts=True, burst=60, per_second=2),
        _endpoint("/token", _token(provider, token), burst=200, per_second=20),
        _endpoint("/register", register.handle, burst=30, per_second=0.5, media=JSON),
        _endpoint("/revoke", _revoke(provider), burst=60, per_second=2),
    ]


def _server_metadata(provider: Provider) -> dict[str, Any]:
    """Return the metadata of RFC 8414. The first method is the one that clients take."""
    issuer = provider.issuer
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "registration_endpoint": f"{issuer}/register",
        "revocation_endpoint": f"{issuer}/revoke",
        "scopes_supported": list(provider.supported),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "code_challenge_methods_supported": ["S256"],
        "client_id_metadata_document_supported": True,
        "authorization_response_iss_parameter_supported": True,
    }


def _resource_metadata(provider: Provider) -> dict[str, Any]:
    """Return the metadata of RFC 9728. Clients ask for all the scopes that it names."""
    return {
        "resource": provider.resource,
        "authorization_servers": [provider.issuer],
        "scopes_supported": list(scopes.DEFAULT),
        "bearer_methods_supported": ["header"],
        "resource_name": "Nextcloud",
    }


def _authorize(provider: Provider) -> Handler:
    handler = AuthorizationHandler(provider)
    cookie = BrowserCookie(provider.issuer)

    async def answer(request: Request) -> Response:
        # Before the handler, which sends every error to the client, and loads it for that.
        try:
            await provider.find_client(request.query_params.get("client_id", ""))
        except BusyError:
            return _busy()
        mine = cookie.read(request) or new_token()
        reset = browser.set(mine)
        try:
            response = await handler.handle(request)
        finally:
            browser.reset(reset)
        if response.status_code == _BAD_REQUEST:
            return _shown(response)
        target = Secret(response.headers["Location"])
        if target.startswith(f"{provider.issuer}{CONSENT}?"):
            cookie.write(response, mine)
        else:
            back = construct_redirect_uri(target.reveal(), iss=provider.issuer)
            if not is_loopback(back):
                return _left_to_the_person(back)
            response.headers["Location"] = back
        return response

    return answer


def _busy() -> Response:
    return problem(
        "This client cannot be connected now",
        "This server asks the sites of too many other clients who they are.",
        "Try again in a minute.",
        status=503,
    )


def _shown(response: Response) -> Response:
    """Return a page for an error that cannot be sent to the client: a person sees it."""
    told = json.loads(bytes(response.body))
    return problem(
        "This client cannot be connected",
        f"Its request was refused: {told.get('error_description') or told.get('error')}.",
        "Remove the server in the client, add it again, and connect. If that does not help, "
        "report it to the makers of the client.",
    )


def _left_to_the_person(back: str) -> Response:
    """Return a page with a link for an error, which a redirect would send to the client.

    Anybody can register an address, and a link to this server must not lead there by itself: that
    is what RFC 9700, section 4.11.2, says of an open redirector. A program on the person's own
    computer is no such place.
    """
    query = dict(parse_qsl(urlsplit(back).query))
    reason = query.get("error_description") or query["error"]
    body = html(_ERROR, reason=reason.rstrip("."), target=shown_target(back), url=Secret(back))
    return page("This client cannot be connected", body, status=_BAD_REQUEST)


def _token(provider: Provider, handler: TokenHandler) -> Handler:
    async def answer(request: Request) -> Response:
        resource = (await request.form()).get("resource")
        if resource is not None and str(resource).rstrip("/") != provider.resource:
            wrong = {
                "error": "invalid_target",
                "error_description": f"The resource is {provider.resource}",
            }
            return JSONResponse(wrong, _BAD_REQUEST, _NO_STORE)
        return cast("Response", await handler.handle(request))

    return answer


def _revoke(provider: Provider) -> Handler:
    """Return the handler of RFC 7009 for public clients, which have no secret to send."""

    async def answer(request: Request) -> Response:
        form = await Form.of(request)
        token, client_id = form.secret("token"), form.text("client_id")
        if not token or not client_id:
            wrong = {
                "error": "invalid_request",
                "error_description": "token and client_id are needed",
            }
            return JSONResponse(wrong, _BAD_REQUEST, _NO_STORE)
        # Also for an unknown token, as the RFC says.
        await provider.revoke(token, client_id)
        return Response(status_code=200, headers=_NO_STORE)

    return answer


def _document(path: str, content: dict[str, Any]) -> Route:
    async def answer(_: Request) -> Response:
        return JSONResponse(content, headers={"Cache-Control": "public, max-age=3600"})

    return Route(path, _cors(guarded(answer), "GET"), methods=["GET", "OPTIONS"])


def _endpoint(
    path: str, handler: Handler, *, burst: int, per_second: float, media: str = FORM
) -> Route:
    limited = guarded(handler, burst=burst, per_second=per_second, media=media)
    return Route(path, _cors(limited, "POST"), methods=["POST", "OPTIONS"])


def _cors(app: ASGIApp, method: str) -> ASGIApp:
    """Allow a client that runs in a browser. No cookie is sent or read here."""
    return CORSMiddleware(
        app,
        allow_origins="*",
        allow_methods=[method, "OPTIONS"],
        allow_headers=[MCP_PROTOCOL_VERSION_HEADER],
    )
