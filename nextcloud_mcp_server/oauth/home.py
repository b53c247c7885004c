"""Home: a person signs in, sees what is connected, and changes or ends it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response

from nextcloud_mcp_server.auth.mcp_grants import BY_USER, McpGrant
from nextcloud_mcp_server.auth.mcp_tokens import new_token
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSession
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError, is_damaged, lacks_key
from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.oauth import home_pages, scopes
from nextcloud_mcp_server.oauth.browser import BrowserCookie, Form, session_of
from nextcloud_mcp_server.oauth.clients import shown_name, shown_target
from nextcloud_mcp_server.oauth.home_pages import SCOPES, SIGN_IN, Link, Shown
from nextcloud_mcp_server.oauth.limits import form_route, page_route
from nextcloud_mcp_server.oauth.login import Logins
from nextcloud_mcp_server.oauth.provider import MCP, SIGN_IN_LIFE, Provider
from nextcloud_mcp_server.pages.browsers import PageRoute
from nextcloud_mcp_server.pages.frame import problem
from nextcloud_mcp_server.secret import Secret
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

#: Seconds for which a browser is signed in, unless it is closed before.
SIGNED_IN: Final = 8 * 3_600

#: What the app password of a sign-in is called in Nextcloud.
_NAME: Final = "sign-in"

Act = Callable[["Request", str, Form], Awaitable[Response]]


class Home:
    """The pages of a person who is signed in, and signing in itself.

    A signed-in browser has a cookie of its own, made after the sign-in; the store has its hash.
    """

    def __init__(self, settings: NextcloudSettings, provider: Provider, logins: Logins) -> None:
        self._settings = settings
        self._provider = provider
        self._logins = logins
        self._browser = BrowserCookie(settings.public_url)
        self._cookie = BrowserCookie(settings.public_url, "-home")
        self.routes: tuple[Route, ...] = (
            page_route("/", self._show),
            PageRoute(MCP, self._for_programs, methods=["GET"]),
            page_route(SIGN_IN, self._wait, acts=True),
            form_route(SIGN_IN, self._sign_in),
            page_route(SCOPES, self._offer),
            self._action(SCOPES, self._change),
            self._action(home_pages.REVOKE, self._revoke),
            self._action(home_pages.DISCONNECT, self._disconnect),
            self._action(home_pages.SIGN_OUT, self._sign_out),
        )

    async def _show(self, request: Request) -> Response:
        user = await self._user(request)
        if user is None:
            return self._welcome(request)
        try:
            password = await self._storage.app_passwords.get(user)
        except TokenStorageError as error:
            if not is_damaged(error):
                raise
            return home_pages.unreadable(self._token(request))
        grants = await self._storage.mcp_grants.list_for_user(user)
        return home_pages.home(
            self._settings,
            user,
            password,
            works=password is not None and self._logins.works(password),
            grants=[await self._shown(grant) for grant in grants],
            token=self._token(request),
            changed=next(iter(request.query_params.items()), ("", "")),
        )

    async def _for_programs(self, request: Request) -> Response:
        return home_pages.for_programs(self._settings)

    async def _offer(self, request: Request) -> Response:
        """Ask whether a grant gets more scopes, which a tool has named in a link."""
        user = await self._user(request)
        query = request.query_params
        grant_id, wanted = query.get("grant", ""), query.getlist("scope")
        if user is None:
            return self._welcome(request, await self._link(grant_id, wanted))
        grant = await self._grant(user, grant_id)
        if grant is None:
            return self._no_grant(request, user, grant_id, wanted)
        return await self._ask(request, grant, [*grant.scopes, *wanted])

    async def _ask(self, request: Request, grant: McpGrant, wanted: list[str]) -> Response:
        chosen = self._allowed(grant, wanted)
        more = [scope for scope in chosen if scope not in grant.scopes]
        if not more:
            return RedirectResponse("/", 303)
        return home_pages.more(await self._shown(grant), chosen, more, self._token(request))

    async def _change(self, request: Request, user: str, form: Form) -> Response:
        """Replace the scopes of a grant; ask again before it gets more."""
        grant = await self._grant(user, form.text("grant"))
        if grant is None:
            return self._no_grant(request, user)
        chosen = self._allowed(grant, form.texts("scope"))
        if not chosen:
            return problem(
                "Nothing is left to allow",
                "A program needs at least one permission.",
                "Go back to your programs and choose one, or revoke its access.",
                link_text="Your programs",
            )
        # Each that is new was on the page: the grant may have lost some since.
        if not set(chosen) <= {*grant.scopes, *form.texts("confirmed")}:
            return await self._ask(request, grant, chosen)
        await self._storage.mcp_grants.change_scopes(grant.grant_id, user, chosen)
        done = home_pages.ALLOWED if form.texts("confirmed") else home_pages.SAVED
        return _changed(done, grant)

    def _allowed(self, grant: McpGrant, wanted: list[str]) -> list[str]:
        """Return what a person may choose: what can be granted, and what was granted before."""
        known = self._provider.supported
        return [s for s in scopes.SCOPES if s in wanted and (s in known or s in grant.scopes)]

    async def _revoke(self, request: Request, user: str, form: Form) -> Response:
        grant = await self._grant(user, form.text("grant"))
        if grant is None:
            return self._no_grant(request, user)
        if form.text("confirmed") != "yes":
            return home_pages.confirm_revoke(await self._shown(grant), self._token(request))
        await self._storage.mcp_grants.revoke(grant.grant_id, BY_USER, user_id=user)
        return _changed(home_pages.REVOKED, grant)

    async def _disconnect(self, request: Request, user: str, form: Form) -> Response:
        """Revoke every grant, then delete the app password in Nextcloud and here."""
        if form.text("confirmed") != "yes":
            return home_pages.confirm_disconnect(user, self._token(request))
        passwords = self._storage.app_passwords
        await self._provider.end_access(user)
        left = ""
        try:
            password = await passwords.get(user)
        except TokenStorageError as error:
            if not is_damaged(error) and not lacks_key(error):
                raise
            left = "The app password of this server"
        else:
            if password is not None and not await self._logins.delete(password, "The stored"):
                left = password.name or "The app password of this server"
        await passwords.delete(user)
        return home_pages.disconnected(left) if left else RedirectResponse("/", 303)

    async def _sign_out(self, request: Request, user: str, form: Form) -> Response:
        await self._storage.browser_sessions.delete(self._cookie.read(request) or Secret())
        response = RedirectResponse(_way_back(form.text("grant"), form.texts("scope")), 303)
        self._cookie.delete(response)
        return response

    def _welcome(self, request: Request, link: Link | None = None) -> Response:
        mine = self._browser.read(request) or new_token()
        token = self._browser.token_for(mine, SIGN_IN)
        is_at_home = request.url.netloc == urlsplit(self._settings.public_url).netloc
        response = home_pages.welcome(self._settings, token, link, is_at_home=is_at_home)
        self._browser.write(response, mine)
        return response

    async def _link(self, grant_id: str, wanted: list[str]) -> Link | None:
        """Return what a link asks for; None if that is nothing.

        It is shown to a browser that is not signed in, also to one that has just signed in for a
        client: that page says that it connects a program, so it leaves nobody signed in, who could
        then allow more than was chosen there, also at a computer that several people use.
        """
        known = [scope for scope in scopes.SCOPES if scope in wanted]
        if not grant_id:
            return None
        grant = await self._storage.mcp_grants.get(grant_id) if _is_id(grant_id) else None
        if grant is None:
            return Link(grant_id, known)
        return Link(grant_id, known, (await self._shown(grant)).name)

    def _no_grant(
        self, request: Request, user: str, grant_id: str = "", wanted: Sequence[str] = ()
    ) -> Response:
        link = Link(grant_id, [scope for scope in scopes.SCOPES if scope in wanted])
        return home_pages.no_grant(user, self._token(request), link)

    async def _sign_in(self, request: Request) -> Response:
        """Begin or cancel a sign-in."""
        form = await Form.of(request)
        session_id = form.secret("session")
        purpose = (SIGN_IN, session_id) if session_id else (SIGN_IN,)
        if not self._browser.is_own_form(request, form, *purpose):
            return self._browser.foreign_form("Open the first page again, and sign in there.")
        if session_id:
            if await self._begun(request, session_id) is not None:
                await self._storage.oauth_sessions.delete(session_id)
                self._provider.count("sign_in", "refused")
            return RedirectResponse("/", 303)
        session_id = new_token()
        await self._storage.oauth_sessions.create(
            session_id,
            _way_back(form.text("grant"), form.texts("scope")),
            flow_type="flow2",
            expires_at=self._provider.now() + SIGN_IN_LIFE,
            browser_id=self._browser.read(request),
        )
        await self._logins.begin(session_id, _NAME)
        return RedirectResponse(f"{SIGN_IN}?{urlencode({'session': session_id.reveal()})}", 303)

    async def _wait(self, request: Request) -> Response:
        """Wait for Nextcloud, then sign the browser in."""
        session_id = session_of(request)
        session = await self._begun(request, session_id)
        wants_json = "application/json" in request.headers.get("Accept", "")
        if session is None or session.poll_token is None:
            return JSONResponse({"state": "ended"}) if wants_json else _no_session()
        reason, user = "", session.user_id
        if user is None:
            try:
                user = await self._logins.poll(session_id, session, _NAME, connects=False)
            except NextcloudError as error:
                reason = f"{error.message} {error.remedy}"
        state = "waiting" if user is None else "granted"
        if wants_json:
            return JSONResponse({"state": state}, headers={"Cache-Control": "no-store"})
        if user is not None:
            return await self._finish(session_id, session, user)
        token = self._browser.form_token(request, SIGN_IN, session_id)
        return home_pages.waiting(self._logins.url(session), session_id, token, reason)

    async def _finish(self, session_id: Secret, session: OAuthSession, user: str) -> Response:
        # Of two requests, one gets the cookie.
        if not await self._storage.oauth_sessions.delete(session_id):
            return _no_session()
        mine = new_token()
        await self._storage.browser_sessions.create(
            mine, user, expires_at=self._provider.now() + SIGNED_IN
        )
        response = RedirectResponse(session.client_redirect_uri, 303)
        self._cookie.write(response, mine)
        return response

    async def _begun(self, request: Request, session_id: Secret) -> OAuthSession | None:
        """Return the running sign-in if it began in this browser."""
        return await self._provider.running_session(
            session_id, self._browser.read(request), "flow2"
        )

    async def _user(self, request: Request) -> str | None:
        """Return the person who is signed in with this browser."""
        mine = self._cookie.read(request)
        return None if mine is None else await self._storage.browser_sessions.get_user_id(mine)

    async def _grant(self, user: str, grant_id: str) -> McpGrant | None:
        """Return the running grant of a person."""
        grants = await self._storage.mcp_grants.list_for_user(user)
        return next((g for g in grants if g.grant_id == grant_id and g.revoked_at is None), None)

    async def _shown(self, grant: McpGrant) -> Shown:
        client = await self._storage.mcp_clients.get(grant.client_id)
        metadata = {} if client is None else client.metadata
        targets = dict.fromkeys(shown_target(str(uri)) for uri in metadata.get("redirect_uris", ()))
        used = max(self._provider.used.get(grant.grant_id, 0), grant.last_used_at or 0)
        return Shown(
            grant,
            shown_name(metadata.get("client_name")),
            ", ".join(targets) or "unknown",
            used or None,
            self._allowed(grant, list(scopes.SCOPES)),
        )

    def _token(self, request: Request) -> Secret:
        return self._cookie.form_token(request, "home")

    @property
    def _storage(self) -> RefreshTokenStorage:
        return self._provider.storage

    def _action(self, path: str, act: Act) -> Route:
        """Return the route of a form on a page of a person who is signed in."""

        async def answer(request: Request) -> Response:
            form = await Form.of(request)
            user = await self._user(request)
            if user is None:
                return RedirectResponse("/", 303)
            if not self._cookie.is_own_form(request, form, "home"):
                return self._cookie.foreign_form("Open the first page again.")
            return await act(request, user, form)

        return form_route(path, answer)


def _way_back(grant_id: str, wanted: list[str]) -> str:
    """Return where a sign-in leads: always to a page of this server."""
    if not grant_id:
        return "/"
    return widening(grant_id, wanted)


def widening(grant_id: str, wanted: Sequence[str]) -> str:
    """Return the path of the page that asks for more scopes for a grant."""
    known = [("scope", scope) for scope in scopes.SCOPES if scope in wanted]
    return f"{SCOPES}?{urlencode([('grant', grant_id), *known])}"


def _is_id(grant_id: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{32}", grant_id) is not None


def _changed(what: str, grant: McpGrant) -> Response:
    """Lead to home, which says what was done to a grant."""
    return RedirectResponse(f"/?{urlencode({what: grant.grant_id})}", 303)


def _no_session() -> Response:
    return problem(
        "This sign-in has ended",
        "It has expired, is complete, or was started in another browser.",
        "Open the first page of this server, and sign in again.",
        status=403,
    )
