"""Signing in: our consent page, then Nextcloud's Login Flow v2 in a second tab while ours waits."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from mcp.server.auth.provider import construct_redirect_uri
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from nextcloud_mcp_server.auth.mcp_tokens import new_token
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSession
from nextcloud_mcp_server.nextcloud.account import User
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.nextcloud.login_flow import Granted, begin_login, poll_login
from nextcloud_mcp_server.oauth.browser import BrowserCookie
from nextcloud_mcp_server.oauth.clients import shown_name, shown_target
from nextcloud_mcp_server.oauth.provider import CODE_LIFE, CONSENT, Provider
from nextcloud_mcp_server.oauth.scopes import SCOPES
from nextcloud_mcp_server.pages.frame import moving_on, page, problem
from nextcloud_mcp_server.pages.html import Html, html, joined
from nextcloud_mcp_server.settings import NextcloudSettings

if TYPE_CHECKING:
    import httpx2
    from starlette.datastructures import FormData
    from starlette.requests import Request

logger = logging.getLogger(__name__)

_WAIT: Final = "/authorize/wait"

#: Seconds between two polls of Nextcloud for one sign-in.
_PAUSE: Final = 1.0
_REMEMBERED: Final = 1_000

_CONSENT: Final = """
<p><strong>{name}</strong> asks for access to your Nextcloud at {nextcloud}.</p>
<dl>
<dt>Client</dt><dd>{name} ({known})</dd>
<dt>Leads back to</dt><dd>{target}</dd>
</dl>
{problem}
<p>Continue only if you have just started this in {name} yourself. Anybody can choose that
name; nobody checks it.</p>
<form method="post" action="{action}">
<input type="hidden" name="session" value="{session}">
<input type="hidden" name="csrf" value="{csrf}">
<fieldset>
<legend>It may</legend>
{scopes}
</fieldset>
<p class="note">Nextcloud itself knows no such limits: it gives this server an app password for
your whole account, and this server keeps to what you choose here.</p>
<div class="actions">
<button class="button main" name="action" value="allow">Continue to Nextcloud</button>
<button class="button" name="action" value="refuse">Refuse</button>
</div>
</form>
"""

_SCOPE: Final = (
    '<label><input type="checkbox" name="scope" value="{scope}" {checked}>{label}</label>'
)

_WAITING: Final = """
<p>Open Nextcloud in a second tab, sign in there, and grant access. Then come back to this tab:
it goes on by itself.</p>
<div class="actions">
<a class="button main" href="{url}" target="_blank" rel="noopener noreferrer">Open Nextcloud</a>
</div>
<p role="status">Waiting for you to grant access in Nextcloud.</p>
{problem}
<p class="note">Grant access only in the tab that you open here. Never open such a link that
somebody has sent you: it would connect your Nextcloud to that person's program.</p>
<form method="post" action="{action}">
<input type="hidden" name="session" value="{session}">
<input type="hidden" name="csrf" value="{csrf}">
<button class="button" name="action" value="refuse">Cancel</button>
</form>
"""

_DONE: Final = """
<p role="status">{message}</p>
<p><a class="button main" href="{url}">Back to {name}</a></p>
<p class="note">If nothing happens, choose the button. Afterwards you can close this tab.</p>
"""


class SignIn:
    """The pages between a client's request and its code.

    A sign-in belongs to the browser in which it began: its cookie is compared on every page.
    """

    def __init__(self, settings: NextcloudSettings, provider: Provider) -> None:
        self._settings = settings
        self._provider = provider
        self._server = Server.parse(settings.host)
        self._browser = Server.parse(settings.browser_url)
        self._cookie = BrowserCookie(https=settings.public_url.startswith("https:"))
        #: The client of Nextcloud, while the server runs.
        self.http: httpx2.AsyncClient | None = None
        self._polled: dict[str, float] = {}
        self.routes = (
            Route(CONSENT, self._consent, methods=["GET"]),
            Route(CONSENT, self._decide, methods=["POST"]),
            Route(_WAIT, self._wait, methods=["GET"]),
        )

    async def _consent(self, request: Request) -> Response:
        session_id = request.query_params.get("session", "")
        session = await self._begun(request, session_id)
        if session is None:
            return _no_session()
        if session.poll_token is not None:
            return RedirectResponse(_address(_WAIT, session_id), 303)
        return await self._ask(request, session_id, session)

    async def _ask(
        self, request: Request, session_id: str, session: OAuthSession, reason: str = ""
    ) -> Response:
        client_id = session.client_id or ""
        boxes = (
            html(_SCOPE, scope=scope, checked="checked", label=SCOPES[scope])
            for scope in session.requested_scopes or ()
        )
        by_document = client_id.startswith("https://")
        known = f"described at {urlsplit(client_id).hostname}" if by_document else "unverified"
        body = html(
            _CONSENT,
            name=await self._name(client_id),
            known=known,
            nextcloud=urlsplit(self._settings.browser_url).netloc,
            target=shown_target(session.client_redirect_uri),
            problem=_problem(reason),
            action=CONSENT,
            session=session_id,
            csrf=self._csrf(request, session_id),
            scopes=joined(boxes),
        )
        return page("Connect to Nextcloud?", body, status=400 if reason else 200)

    async def _decide(self, request: Request) -> Response:
        form = await request.form()
        session_id = _text(form, "session")
        session = await self._begun(request, session_id)
        if session is None:
            return _no_session()
        if not self._is_ours(request, session_id, _text(form, "csrf")):
            return problem(
                "This form is not from this page",
                "The request did not come from the page that this server has shown.",
                "Go back to your client, and begin to connect again.",
                status=403,
            )
        if _text(form, "action") != "allow":
            return await self._refused(session_id, session)
        chosen = set(form.getlist("scope"))
        scopes = [scope for scope in session.requested_scopes or () if scope in chosen]
        if not scopes:
            reason = "Choose at least one thing that it may do, or refuse."
            return await self._ask(request, session_id, session, reason)
        try:
            await self._begin(session_id, session, scopes)
        except NextcloudError as error:
            return problem("Nextcloud cannot be reached", error.message, error.remedy, status=502)
        return RedirectResponse(_address(_WAIT, session_id), 303)

    async def _begin(self, session_id: str, session: OAuthSession, scopes: list[str]) -> None:
        started = await begin_login(
            self._open_http(),
            self._server,
            await self._agent(session),
            browser=self._browser,
        )
        await self._provider.storage.oauth_sessions.update(
            session_id,
            granted_scopes=scopes,
            poll_endpoint=self._settings.host,
            # The link is a secret too: who opens it first is connected.
            poll_token=json.dumps([started.poll_token, started.login_url]),
        )

    async def _refused(self, session_id: str, session: OAuthSession) -> Response:
        await self._provider.storage.oauth_sessions.delete(session_id)
        url = self._back(session, error="access_denied")
        return await self._leave(session, url, "Nothing was connected.")

    async def _wait(self, request: Request) -> Response:
        session_id = request.query_params.get("session", "")
        session = await self._begun(request, session_id)
        wants_json = "application/json" in request.headers.get("Accept", "")
        if session is None:
            return JSONResponse({"state": "ended"}) if wants_json else _no_session()
        if session.poll_token is None:
            return RedirectResponse(_address(CONSENT, session_id), 303)
        reason, display = "", session.user_id
        if session.user_id is None:
            try:
                display = await self._poll(session_id, session)
            except NextcloudError as error:
                reason = f"{error.message} {error.remedy}"
        state = "granted" if display is not None else "waiting"
        if wants_json:
            return JSONResponse({"state": state}, headers={"Cache-Control": "no-store"})
        if display is not None:
            return await self._finish(session_id, session, display)
        _, url = json.loads(session.poll_token)
        body = html(
            _WAITING,
            url=url,
            problem=_problem(reason),
            action=CONSENT,
            session=session_id,
            csrf=self._csrf(request, session_id),
        )
        return page("Grant access in Nextcloud", body, state=state, waits=True)

    async def _finish(self, session_id: str, session: OAuthSession, display: str) -> Response:
        """Issue a code, and lead the browser back to the client."""
        code = new_token()
        await self._provider.storage.oauth_sessions.update(
            session_id,
            mcp_authorization_code=code,
            code_expires_at=self._provider.now() + CODE_LIFE,
        )
        return await self._leave(
            session, self._back(session, code=code), f"Connected as {display}."
        )

    async def _poll(self, session_id: str, session: OAuthSession) -> str | None:
        """Return the user if access was granted; store the app password then."""
        now = time.monotonic()
        if now - self._polled.get(session_id, -_PAUSE) < _PAUSE:
            return None
        if len(self._polled) >= _REMEMBERED:
            self._polled.clear()
        self._polled[session_id] = now
        if session.poll_endpoint != self._settings.host:
            # NEXTCLOUD_HOST has changed: the token is for the other server.
            return None
        token, _ = json.loads(session.poll_token or "")
        agent = await self._agent(session)
        granted = await poll_login(self._open_http(), self._server, agent, token)
        if granted is None:
            return None
        try:
            user = await self._connect(granted, agent, session)
        except NextcloudError:
            # Nextcloud gives a password out once: there is nothing to wait for any more.
            await self._provider.storage.oauth_sessions.delete(session_id)
            raise
        await self._provider.storage.oauth_sessions.update(session_id, user_id=user.id)
        return user.id

    async def _connect(self, granted: Granted, agent: str, session: OAuthSession) -> User:
        """Store a granted app password, and delete the old one in Nextcloud."""
        client = self._client(granted.login_name, granted.app_password, agent)
        passwords = self._provider.storage.app_passwords
        try:
            # A login name is not a user id.
            user = await client.account.whoami()
        except NextcloudError:
            await _delete(client, "The new")
            raise
        old = await passwords.get(user.id)
        if old is not None and old.server == self._settings.host and old.refused_at is None:
            # With itself: no other credential may do that.
            await _delete(
                self._client(old.username or user.id, old.password, agent), "The previous"
            )
        await passwords.store(
            user.id,
            granted.app_password,
            scopes=session.granted_scopes,
            username=granted.login_name,
            server=self._settings.host,
            name=agent,
        )
        return user

    def _client(self, login_name: str, password: str, agent: str) -> Nextcloud:
        return Nextcloud(
            self._open_http(),
            self._server,
            login_name=login_name,
            app_password=password,
            user_agent=agent,
        )

    def _open_http(self) -> httpx2.AsyncClient:
        if self.http is None:
            raise AssertionError("the server runs while it answers")
        return self.http

    async def _agent(self, session: OAuthSession) -> str:
        """Return the name under which Nextcloud lists the app password."""
        host = urlsplit(self._settings.public_url).netloc
        name = await self._name(session.client_id or "")
        # A header has no other characters.
        plain = name.encode("ascii", "replace").decode()
        return f"nextcloud-mcp-server at {host} ({plain})"

    async def _name(self, client_id: str) -> str:
        client = await self._provider.get_client(client_id)
        return shown_name(None if client is None else client.client_name)

    async def _begun(self, request: Request, session_id: str) -> OAuthSession | None:
        """Return the running sign-in if it began in this browser."""
        if not session_id or not session_id.isascii() or not session_id.isprintable():
            return None
        session = await self._provider.storage.oauth_sessions.get(session_id)
        if session is None or session.is_expired or session.flow_type != "flow1":
            return None
        return session if session.began_in(self._cookie.read(request) or "") else None

    def _is_ours(self, request: Request, session_id: str, csrf: str) -> bool:
        origin = request.headers.get("Origin")
        return origin in {None, self._settings.public_url} and hmac.compare_digest(
            csrf.encode(), self._csrf(request, session_id).encode()
        )

    def _csrf(self, request: Request, session_id: str) -> str:
        """Return the token of a form: only a page of this server, in this browser, has it."""
        key = (self._cookie.read(request) or "").encode()
        return hmac.new(key, f"consent {session_id}".encode(), hashlib.sha256).hexdigest()

    def _back(self, session: OAuthSession, **answer: str) -> str:
        return construct_redirect_uri(
            session.client_redirect_uri,
            **answer,
            state=session.state,
            iss=self._provider.issuer,
        )

    async def _leave(self, session: OAuthSession, url: str, message: str) -> Response:
        name = await self._name(session.client_id or "")
        body = html(_DONE, message=message, url=url, name=name)
        return page("You can go back", body, head=moving_on(url))


async def _delete(client: Nextcloud, which: str) -> None:
    """Delete the app password of ``client`` in Nextcloud, if it is not refused already."""
    if client.refused:
        return
    try:
        await client.account.delete_app_password()
    except NextcloudError as error:
        logger.warning("%s app password stays in Nextcloud: %s", which, error.message)


def _problem(reason: str) -> Html:
    return html('<p class="problem" role="alert">{reason}</p>', reason=reason) if reason else Html()


def _address(path: str, session_id: str) -> str:
    return f"{path}?{urlencode({'session': session_id})}"


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


def _no_session() -> Response:
    return problem(
        "This sign-in has ended",
        "It has expired, is complete, or was started in another browser.",
        "Go back to your client, and begin to connect again. Open links of a sign-in only in the "
        "browser that began it.",
        status=403,
    )
