"""The access of the mode for many people: who calls, and with which Nextcloud and scopes."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import UrlElicitationRequiredError
from mcp_types import (
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
)

from nextcloud_mcp_server.auth.app_passwords import AppPassword
from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.errors import SERVER_PROBLEM, TokenStorageError, is_damaged, lacks_key
from nextcloud_mcp_server.nextcloud.addresses import Server
from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.connection import open_http
from nextcloud_mcp_server.nextcloud.errors import NextcloudError, for_person
from nextcloud_mcp_server.oauth.home import widening
from nextcloud_mcp_server.oauth.provider import Provider, closes
from nextcloud_mcp_server.oauth.scopes import SCOPES
from nextcloud_mcp_server.server.request_id import request_id
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings
from nextcloud_mcp_server.tools.access import Person

if TYPE_CHECKING:
    import httpx2
    from mcp.server.auth.provider import AccessToken
    from mcp.server.mcpserver import Context

logger = logging.getLogger(__name__)

#: Clients of Nextcloud that are kept, each for one password.
_KEPT: Final = 1_000

#: Seconds for which a call waits for the person who has agreed to open the page, and between two
#: looks into the store.
_PATIENCE: Final = 20.0
_PAUSE: Final = 0.5

#: The protocol without sessions: a client answers by calling again.
_STATELESS: Final = "2026-07-28"

_ASKED: Final = "grant"


class People:
    """Everybody who has connected a Nextcloud. The token of a call says whose call it is.

    Args:
        settings: of Nextcloud.
        provider: finds tokens and grants.
    """

    def __init__(self, settings: NextcloudSettings, provider: Provider) -> None:
        self.provider = provider
        self.home = f"{settings.public_url}/"
        self._host = settings.host
        self._place = settings.browser_url
        self._server = Server.parse(settings.host)
        self._agent = f"nextcloud-mcp-server at {urlsplit(settings.public_url).netloc}"
        self._supported = frozenset(provider.supported)
        self._http: httpx2.AsyncClient | None = None
        self._clients: OrderedDict[tuple[str, str], Nextcloud] = OrderedDict()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reach Nextcloud during the ``with`` block."""
        async with open_http(count=partial(self.provider.count, "nextcloud")) as http:
            self._http = http
            try:
                yield
            finally:
                self._clients.clear()
                self._http = None

    async def person(self) -> Person | None:
        """Return the person with every scope that can be asked for; None without a connection."""
        try:
            return Person(await self.connected(), self._supported)
        except ToolError:
            return None

    async def require(
        self, scope: str | None, context: Context[Any, Any]
    ) -> Person | InputRequiredResult:
        """Return the person if the client has the scope, or the request to open the page.

        Raises:
            ToolError: the account is not connected, or the scope is not granted.
            UrlElicitationRequiredError: the client has to open the page first.
        """
        nextcloud = await self.connected()
        granted = frozenset((await self.token()).scopes)
        if scope is not None and scope not in granted:
            if scope not in self._supported:
                raise ToolError(
                    f"{SCOPES[scope]}: this is switched off on this server. Its operator can "
                    "allow public links with SHARE_LINKS=true."
                )
            asked = await self._ask(scope, context)
            if asked is not None:
                return asked
            granted = frozenset((await self.token()).scopes)
        return Person(nextcloud, granted & self._supported)

    async def failed(self, error: NextcloudError) -> ToolError:
        """Return what the person can do. Record a refused password; log what is the operator's."""
        if error.code != "reconnect":
            told = for_person(error, self._place)
            if told.message != error.message:
                logger.warning("A tool failed: %s %s [%s]", error.message, error.remedy, error.code)
            return ToolError(f"{told.message} {told.remedy}")
        try:
            await self.connected()
        except ToolError as again:
            return again
        # Another password was stored meanwhile.
        return ToolError(f"{error.message} Another one was stored meanwhile: call again.")

    async def token(self) -> AccessToken:
        """Return the access token of the call, with the scopes that its grant has now.

        Raises:
            ToolError: the grant was revoked.
        """
        sent = get_access_token()
        token = None if sent is None else await self.provider.load_access_token(sent.token)
        if token is None or token.subject is None or closes(token):
            raise ToolError("The access of this client was ended. Connect the client again.")
        return token

    async def connected(self) -> Nextcloud:
        """Return the Nextcloud of the person who calls. No request is sent.

        Raises:
            ToolError: there is no app password for it that works; it says what to do.
        """
        user = str((await self.token()).subject)
        password = await self._password(user)
        client = self._client(password)
        if client.refused:
            await self.provider.storage.app_passwords.refuse(password)
            raise self._disconnected("Nextcloud refused the app password of this account.")
        self.provider.used_passwords[user] = self.provider.now()
        return client

    async def disconnect(self, user: str) -> str | None:
        """Delete the app password of a user, in Nextcloud with itself.

        Returns:
            Why it stays in Nextcloud; None if it does not.
        """
        left = None
        try:
            await self._client(await self._password(user)).account.delete_app_password()
        except NextcloudError as error:
            left = str(for_person(error, self._place))
        except ToolError as error:
            left = str(error)
        await self.provider.storage.app_passwords.delete(user)
        return left

    async def _password(self, user: str) -> AppPassword:
        """Return the app password of a user, which may be sent to NEXTCLOUD_HOST.

        Raises:
            ToolError: there is none.
        """
        try:
            password = await self.provider.storage.app_passwords.get(user)
        except TokenStorageError as error:
            if lacks_key(error):
                raise _for_operator(error) from None
            if not is_damaged(error):
                raise
            raise self._disconnected("The stored app password cannot be read.") from None
        if password is None:
            raise ToolError(
                "No Nextcloud is connected: the app password was deleted. Remove this client's "
                f"access at {self.home} and connect the client again."
            )
        if password.server != self._host:
            raise self._disconnected(
                f"This server now uses the Nextcloud {self._host}, and this account was connected "
                f"to {password.server or 'another one'}."
            )
        if password.refused_at is not None:
            raise self._disconnected("Nextcloud refused the app password of this account.")
        return password

    def _disconnected(self, reason: str) -> ToolError:
        return ToolError(
            f"{reason} It is not tried again. The person has to open {self.home} and sign in "
            "there, after signing out if necessary: that connects the account again."
        )

    def _client(self, password: AppPassword) -> Nextcloud:
        """Return the one client of a password: a refused password is sent once."""
        if self._http is None:
            raise AssertionError("the server runs while it answers")
        login_name = password.username or password.user_id
        key = (password.user_id, hashed(f"{login_name}:{password.password}"))
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = Nextcloud(
                self._http,
                self._server,
                login_name=login_name,
                app_password=password.password,
                user_agent=password.name or self._agent,
            )
            if len(self._clients) > _KEPT:
                self._clients.popitem(last=False)
        self._clients.move_to_end(key)
        return client

    async def _ask(self, scope: str, context: Context[Any, Any]) -> InputRequiredResult | None:
        """Ask the person for a scope; None if it is granted now."""
        message = f"This needs the permission {scope} ({SCOPES[scope]}). Allow it on this page."
        grant = (await self.token()).claims or {}
        page = f"{self.home.rstrip('/')}{widening(grant['grant_id'], [scope])}"
        closed = ToolError(
            f"The person has not granted {scope} ({SCOPES[scope]}) to this client. Ask the person "
            f"to open {page} and to allow it there; then call again."
        )
        capabilities = context.client_capabilities
        elicitation = None if capabilities is None else capabilities.elicitation
        if elicitation is None or elicitation.url is None:
            raise closed
        if context.protocol_version != _STATELESS:
            # The same for several calls, so that the client shows one page.
            name = f"{grant['grant_id']}:{scope}"
            raise UrlElicitationRequiredError(
                [ElicitRequestURLParams(message=message, url=page, elicitation_id=name)]
            )
        if context.input_responses is None:
            question = ElicitRequest(params=ElicitRequestURLParams(message=message, url=page))
            return InputRequiredResult(input_requests={_ASKED: question}, request_state=scope)
        answer = context.input_responses.get(_ASKED)
        if not isinstance(answer, ElicitResult) or answer.action != "accept":
            raise ToolError(
                f"{scope} is not granted to this client: the person has not opened the page now. "
                f"That is possible at any time at {page}; then call again."
            )
        # "accept" says that the person opens the page, and not what happened on it.
        with anyio.move_on_after(_PATIENCE):
            # The grant may change in another process.
            while scope not in (await self.token()).scopes:  # noqa: ASYNC110
                await anyio.sleep(_PAUSE)
            return None
        raise closed


def _for_operator(error: TokenStorageError) -> ToolError:
    """Log what the operator has to do, and return what the model gets."""
    logger.error("A tool failed: %s %s [%s]", error.message, error.remedy, error.code)
    mine = request_id.get()
    told = f" the id of this request: {mine}" if mine else ""
    return ToolError(f"{SERVER_PROBLEM} Tell the operator of this server{told}.")
