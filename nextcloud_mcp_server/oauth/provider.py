"""What the SDK's handlers ask for: clients, codes and tokens, from the store."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final
from urllib.parse import urlencode

from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    AuthorizeError,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    TokenError,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyUrl, Field

from nextcloud_mcp_server.auth.mcp_grants import BY_CLIENT, DISCONNECTED, IssuedTokens
from nextcloud_mcp_server.auth.mcp_tokens import ACCESS, REFRESH, McpToken, new_token
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSession
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.errors import STORE_UNAVAILABLE, TokenStorageError, not_open
from nextcloud_mcp_server.oauth import scopes
from nextcloud_mcp_server.oauth.clients import Clients
from nextcloud_mcp_server.secret import Secret, hidden
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

logger = logging.getLogger(__name__)

#: Seconds for a whole sign-in, and for its code.
SIGN_IN_LIFE: Final = 1_200
CODE_LIFE: Final = 60

#: Seconds for which a token whose client has ended its own grant may list the tools and close its
#: session. The SDK's clients do both, and an answer of 401 would start a new sign-in.
CLOSING: Final = 10.0

CONSENT: Final = "/authorize/consent"

#: The path of the MCP endpoint, which is the resource of every token.
MCP: Final = "/mcp"

#: Counts an event by its name and its outcome, for the operator.
Count = Callable[[str, str], object]

#: The claim of a token that is closing.
_CLOSES: Final = "closes"

#: A challenge of RFC 7636.
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43,128}")

_LONGEST_STATE: Final = 4_096

#: The cookie of the browser whose request is being answered.
browser: Final[ContextVar[Secret]] = ContextVar("browser")


class _Code(AuthorizationCode):
    """A code; the repr hides it."""

    code: str = Field(repr=False)


class _Refresh(RefreshToken):
    """A refresh token; the repr hides it."""

    token: str = Field(repr=False)


class _Access(AccessToken):
    """An access token; the repr hides it."""

    token: str = Field(repr=False)


class Provider(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """The provider. It works while :attr:`storage` is open."""

    def __init__(
        self,
        settings: NextcloudSettings,
        clients: Clients,
        count: Count = lambda event, outcome: None,
    ) -> None:
        self.count = count
        self.issuer = settings.public_url
        self.resource = f"{settings.public_url}{MCP}"
        self.used: dict[str, int] = {}
        self.supported = scopes.supported(
            read_only=settings.read_only, share_links=settings.share_links
        )
        #: When the app passwords of users were used last.
        self.used_passwords: dict[str, int] = {}
        self._clients = clients
        #: The tokens that are closing, by their hashes, and when that began. Only in this process:
        #: another one answers 401.
        self._closing: dict[str, tuple[_Access, float]] = {}
        self._storage: RefreshTokenStorage | None = None

    @property
    def storage(self) -> RefreshTokenStorage:
        """The open store.

        Raises:
            TokenStorageError: ``not-open``.
        """
        if self._storage is None:
            raise not_open()
        return self._storage

    @storage.setter
    def storage(self, storage: RefreshTokenStorage | None) -> None:
        self._storage = storage

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        """Return the client as it is stored, or None."""
        return await self._clients.get(self.storage, client_id)

    async def find_client(self, client_id: str) -> None:
        """Fetch the document of a client that wants to connect, if its id is the URL of one.

        Raises:
            BusyError: too many documents are being fetched.
        """
        await self._clients.find(self.storage, client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Store a new client as a public one."""
        await self._clients.register(self.storage, client_info)

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        """Begin a sign-in, and return the address of the consent page.

        Raises:
            AuthorizeError: the request is refused.
        """
        if not _CHALLENGE.fullmatch(params.code_challenge):
            raise AuthorizeError("invalid_request", "code_challenge has not 43 to 128 characters")
        if params.resource is not None and params.resource.rstrip("/") != self.resource:
            raise AuthorizeError("invalid_target", f"The resource is {self.resource}")
        if len(params.state or "") > _LONGEST_STATE:
            raise AuthorizeError("invalid_request", "state is too long")
        asked = scopes.requested(params.scopes, self.supported)
        if not asked:
            raise AuthorizeError("invalid_scope", f"The scopes are {' '.join(self.supported)}")
        session_id = new_token()
        try:
            await self.storage.oauth_sessions.create(
                session_id,
                str(params.redirect_uri),
                client_id=client.client_id,
                state=params.state or None,
                code_challenge=params.code_challenge,
                code_challenge_method="S256",
                flow_type="flow1",
                requested_scopes=asked,
                expires_at=self.now() + SIGN_IN_LIFE,
                resource=self.resource,
                redirect_uri_given=params.redirect_uri_provided_explicitly,
                browser_id=browser.get(),
            )
        except TokenStorageError as error:
            if error.code == "bad-input":
                raise AuthorizeError("invalid_request", error.message) from None
            logger.error("No sign-in began: %s %s [%s]", error.message, error.remedy, error.code)
            raise AuthorizeError("temporarily_unavailable", STORE_UNAVAILABLE) from None
        return f"{self.issuer}{CONSENT}?{urlencode({'session': session_id.reveal()})}"

    def now(self) -> int:
        """Return whole seconds since 1970."""
        return int(time.time())

    async def running_session(
        self, session_id: Secret, browser_id: Secret | None, flow_type: str
    ) -> OAuthSession | None:
        """Return a running sign-in if it began in the browser with this id."""
        if not _is_token(session_id) or browser_id is None:
            return None
        session = await self.storage.oauth_sessions.get(session_id)
        if session is None or session.is_expired or session.flow_type != flow_type:
            return None
        return session if session.began_in(browser_id) else None

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        """Return a code with what the handler compares; None if it is unknown or was used.

        A code that was used revokes its grant.
        """
        authorization_code = hidden(authorization_code)
        session = None
        if _is_token(authorization_code):
            session = await self.storage.oauth_sessions.get_by_code(authorization_code)
        if session is None or session.client_id != client.client_id:
            if session is None and _is_token(authorization_code):
                await self.storage.mcp_grants.redeem(authorization_code, client_id=client.client_id)
            return None
        return _Code(
            code=hidden(authorization_code).reveal(),
            scopes=list(session.granted_scopes or ()),
            expires_at=session.code_expires_at or 0,
            client_id=client.client_id,
            code_challenge=session.code_challenge or "",
            redirect_uri=AnyUrl(session.client_redirect_uri),
            redirect_uri_provided_explicitly=bool(session.redirect_uri_given),
            resource=session.resource,
            subject=session.user_id,
        )

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        """Return the first tokens of a grant.

        Raises:
            TokenError: the code was used, or expired meanwhile.
        """
        issued = await self.storage.mcp_grants.redeem(
            authorization_code.code, client_id=client.client_id
        )
        if issued is None:
            raise TokenError("invalid_grant", "authorization code does not exist")
        return _answer(issued)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        """Return a refresh token, used or not; None if it is unknown, expired or revoked."""
        refresh_token = hidden(refresh_token)
        found = await self._find(refresh_token, REFRESH)
        if found is None or found.client_id != client.client_id:
            return None
        return _Refresh(
            token=hidden(refresh_token).reveal(),
            client_id=found.client_id,
            scopes=list(found.scopes),
            expires_at=found.expires_at,
            resource=found.resource,
            subject=found.user_id,
        )

    async def exchange_refresh_token(
        self,
        client: OAuthClientInformationFull,
        refresh_token: RefreshToken,
        scopes: list[str],
    ) -> OAuthToken:
        """Return new tokens; within the grace, an access token alone.

        Raises:
            TokenError: the token was used before the grace, which has revoked its grant.
        """
        narrowed = None if set(scopes) == set(refresh_token.scopes) else scopes
        issued = await self.storage.mcp_grants.refresh(
            refresh_token.token, client_id=client.client_id, scopes=narrowed
        )
        if issued is None:
            # It was valid when the handler has loaded it.
            self.count("refresh", "reused")
            raise TokenError("invalid_grant", "refresh token does not exist")
        self.count("refresh", "grace" if issued.refresh_token is None else "rotated")
        return _answer(issued)

    async def load_access_token(self, token: str) -> AccessToken | None:
        """Return a valid access token; the use of its grant is written later.

        One that :func:`closes` has no scopes.
        """
        token = hidden(token)
        found = await self._find(token, ACCESS)
        if found is None:
            closing, since = self._closing.get(hashed(token), (None, 0.0))
            return closing if time.monotonic() - since < CLOSING else None
        self.used[found.grant_id] = self.now()
        return _Access(
            token=hidden(token).reveal(),
            client_id=found.client_id,
            scopes=list(found.scopes),
            expires_at=found.expires_at,
            resource=found.resource,
            subject=found.user_id,
            claims={"iss": self.issuer, "grant_id": found.grant_id},
        )

    def close(self, token: AccessToken) -> None:
        """Let a token list the tools and close its session for :data:`CLOSING` seconds.

        Its client has ended its grant, and it may call nothing any more.
        """
        now = time.monotonic()
        kept = {key: one for key, one in self._closing.items() if now - one[1] < CLOSING}
        ended = _Access(
            token=hidden(token.token).reveal(),
            client_id=token.client_id,
            scopes=[],
            expires_at=token.expires_at,
            resource=token.resource,
            subject=token.subject,
            claims={"iss": self.issuer, _CLOSES: True},
        )
        self._closing = {**kept, hashed(hidden(token.token)): (ended, now)}

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        """Revoke the grant of a token."""
        await self.revoke(token.token, token.client_id)

    async def revoke(self, token: str, client_id: str) -> None:
        """Revoke the grant of a token if it is of this client."""
        token = hidden(token)
        for kind in (ACCESS, REFRESH):
            found = await self._find(token, kind)
            if found is not None and found.client_id == client_id:
                await self.storage.mcp_grants.revoke(found.grant_id, BY_CLIENT)

    async def end_access(self, user: str) -> None:
        """End every sign-in that waits for its client, then revoke every grant of a user."""
        # In this order: a code that is redeemed meanwhile has become a grant, or is gone.
        await self.storage.oauth_sessions.delete_for_user(user)
        await self.storage.mcp_grants.revoke_for_user(user, DISCONNECTED)

    async def write_uses(self) -> None:
        """Store when grants and app passwords were used last."""
        used, self.used = self.used, {}
        passwords, self.used_passwords = self.used_passwords, {}
        await self.storage.mcp_grants.touch(used)
        await self.storage.app_passwords.touch(passwords)

    async def _find(self, token: str, kind: str) -> McpToken | None:
        return await self.storage.mcp_tokens.find_valid(token, kind) if _is_token(token) else None


def closes(token: AccessToken) -> bool:
    """Return whether a token may only list the tools and close its session."""
    return bool((token.claims or {}).get(_CLOSES))


def _is_token(text: str) -> bool:
    """Return whether a text can be a code or a token of this server."""
    return re.fullmatch(r"[A-Za-z0-9_-]{43}", text) is not None


def _answer(issued: IssuedTokens) -> OAuthToken:
    return OAuthToken(
        access_token=issued.access_token,
        expires_in=issued.expires_in,
        scope=" ".join(issued.scopes),
        refresh_token=issued.refresh_token,
    )
