"""Signing in: our consent page, then Nextcloud's Login Flow v2 in a second tab while ours waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from mcp.server.auth.provider import construct_redirect_uri
from starlette.responses import JSONResponse, RedirectResponse, Response

from nextcloud_mcp_server.auth.mcp_tokens import new_token
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSession
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.oauth.browser import BrowserCookie, Form, session_of
from nextcloud_mcp_server.oauth.clients import shown_name, shown_target
from nextcloud_mcp_server.oauth.limits import form_route, page_route
from nextcloud_mcp_server.oauth.login import Logins
from nextcloud_mcp_server.oauth.provider import CODE_LIFE, CONSENT, Provider
from nextcloud_mcp_server.oauth.scopes import SCOPES
from nextcloud_mcp_server.pages.frame import WAITING, moving_on, page, problem, told
from nextcloud_mcp_server.pages.html import html, joined
from nextcloud_mcp_server.secret import Secret
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

if TYPE_CHECKING:
    from starlette.requests import Request

_WAIT: Final = "/authorize/wait"

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

_DONE: Final = """
<p role="status">{message}</p>
<p><a class="button main" href="{url}">Back to {name}</a></p>
<p class="note">If nothing happens, choose the button. Afterwards you can close this tab.</p>
"""


class SignIn:
    """The pages between a client's request and its code.

    A sign-in belongs to the browser in which it began: its cookie is compared on every page.
    """

    def __init__(self, settings: NextcloudSettings, provider: Provider, logins: Logins) -> None:
        self._settings = settings
        self._provider = provider
        self._logins = logins
        self._cookie = BrowserCookie(settings.public_url)
        self.routes = (
            page_route(CONSENT, self._consent),
            form_route(CONSENT, self._decide),
            page_route(_WAIT, self._wait, acts=True),
        )

    async def _consent(self, request: Request) -> Response:
        session_id = session_of(request)
        session = await self._begun(request, session_id)
        if session is None:
            return _no_session()
        if session.poll_token is not None:
            return RedirectResponse(_address(_WAIT, session_id), 303)
        return await self._ask(request, session_id, session)

    async def _ask(
        self, request: Request, session_id: Secret, session: OAuthSession, reason: str = ""
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
            problem=told(reason),
            action=CONSENT,
            session=session_id,
            csrf=self._csrf(request, session_id),
            scopes=joined(boxes),
        )
        return page("Connect to Nextcloud?", body, status=400 if reason else 200)

    async def _decide(self, request: Request) -> Response:
        form = await Form.of(request)
        session_id = form.secret("session")
        session = await self._begun(request, session_id)
        if session is None:
            return _no_session()
        if not self._cookie.is_own_form(request, form, "consent", session_id):
            return self._cookie.foreign_form("Go back to your client, and begin to connect again.")
        if form.text("action") != "allow":
            return await self._refused(session_id, session)
        chosen = set(form.texts("scope"))
        scopes = [scope for scope in session.requested_scopes or () if scope in chosen]
        if not scopes:
            reason = "Choose at least one thing that it may do, or refuse."
            return await self._ask(request, session_id, session, reason)
        name = await self._name(session.client_id or "")
        await self._logins.begin(session_id, name, scopes=tuple(scopes))
        return RedirectResponse(_address(_WAIT, session_id), 303)

    async def _refused(self, session_id: Secret, session: OAuthSession) -> Response:
        await self._provider.storage.oauth_sessions.delete(session_id)
        self._provider.count("sign_in", "refused")
        url = self._back(session, error="access_denied")
        name = await self._name(session.client_id or "")
        return _left("Nothing was connected", f"{name} has no access to your Nextcloud.", url, name)

    async def _wait(self, request: Request) -> Response:
        session_id = session_of(request)
        session = await self._begun(request, session_id)
        wants_json = "application/json" in request.headers.get("Accept", "")
        if session is None:
            return JSONResponse({"state": "ended"}) if wants_json else _no_session()
        if session.poll_token is None:
            return RedirectResponse(_address(CONSENT, session_id), 303)
        reason, display = "", session.user_id
        if session.user_id is None:
            try:
                name = await self._name(session.client_id or "")
                display = await self._logins.poll(session_id, session, name, connects=True)
            except NextcloudError as error:
                reason = f"{error.message} {error.remedy}"
        state = "granted" if display is not None else "waiting"
        if wants_json:
            return JSONResponse({"state": state}, headers={"Cache-Control": "no-store"})
        if display is not None:
            return await self._finish(session_id, session, display)
        body = html(
            WAITING,
            why="",
            url=self._logins.url(session),
            problem=told(reason),
            action=CONSENT,
            session=session_id,
            csrf=self._csrf(request, session_id),
            note="connect your Nextcloud to that person's program",
        )
        return page("Grant access in Nextcloud", body, state=state, waits=True)

    async def _finish(self, session_id: Secret, session: OAuthSession, display: str) -> Response:
        """Issue a code, and lead the browser back to the client."""
        code = new_token()
        # Of two requests one gets a code: another one would make the first invalid.
        if not await self._provider.storage.oauth_sessions.issue_code(
            session_id, code, code_expires_at=self._provider.now() + CODE_LIFE
        ):
            return _no_session()
        name = await self._name(session.client_id or "")
        url = self._back(session, code=code)
        return _left(f"{name} is connected", f"Connected as {display}.", url, name)

    async def _name(self, client_id: str) -> str:
        client = await self._provider.get_client(client_id)
        return shown_name(None if client is None else client.client_name)

    async def _begun(self, request: Request, session_id: Secret) -> OAuthSession | None:
        """Return the running sign-in if it began in this browser; None if it has its code."""
        session = await self._provider.running_session(
            session_id, self._cookie.read(request), "flow1"
        )
        return None if session is None or session.mcp_authorization_code else session

    def _csrf(self, request: Request, session_id: Secret) -> Secret:
        return self._cookie.form_token(request, "consent", session_id)

    def _back(
        self, session: OAuthSession, *, code: Secret | None = None, error: str | None = None
    ) -> Secret:
        return Secret(
            construct_redirect_uri(
                session.client_redirect_uri,
                code=None if code is None else code.reveal(),
                error=error,
                state=session.state,
                iss=self._provider.issuer,
            )
        )


def _left(title: str, message: str, url: Secret, name: str) -> Response:
    """Return the last page, which leads back to the client."""
    body = html(_DONE, message=message, url=url, name=name)
    return page(title, body, head=moving_on(url))


def _address(path: str, session_id: Secret) -> str:
    return f"{path}?{urlencode({'session': session_id.reveal()})}"


def _no_session() -> Response:
    return problem(
        "This sign-in has ended",
        "It has expired, is complete, or was started in another browser.",
        "Go back to your client, and begin to connect again. Open links of a sign-in only in the "
        "browser that began it.",
        status=403,
    )
