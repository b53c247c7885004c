"""The authorization server as one object: its routes, how MCP is protected, its background."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mcp.server.auth.provider import ProviderTokenVerifier, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.transport_security import TransportSecuritySettings
from pydantic import AnyHttpUrl

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.nextcloud.connection import open_http
from nextcloud_mcp_server.oauth.clients import Clients
from nextcloud_mcp_server.oauth.documents import Documents
from nextcloud_mcp_server.oauth.endpoints import endpoints
from nextcloud_mcp_server.oauth.home import Home, widening
from nextcloud_mcp_server.oauth.limits import page_route
from nextcloud_mcp_server.oauth.login import Logins
from nextcloud_mcp_server.oauth.provider import MCP, Count, Provider
from nextcloud_mcp_server.oauth.sign_in import SignIn
from nextcloud_mcp_server.pages import frame
from nextcloud_mcp_server.settings.nextcloud import NextcloudSettings

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from starlette.applications import Starlette
    from starlette.routing import BaseRoute

logger = logging.getLogger(__name__)

#: Seconds between two writes of the last uses, and between two sweeps.
_USES: Final = 60.0
_SWEEP: Final = 3_600.0


class AuthorizationServer:
    """The authorization server of one process.

    Args:
        settings: of Nextcloud.
        documents: fetches the documents of clients; None for those of the internet.
        count: counts ``sign_in``, ``refresh`` and ``nextcloud``, each by its outcome.

    Attributes:
        routes: the endpoints of OAuth, the pages and their assets.
        provider: gives the SDK its clients and tokens.
    """

    def __init__(
        self,
        settings: NextcloudSettings,
        documents: Documents | None = None,
        *,
        count: Count = lambda event, outcome: None,
    ) -> None:
        self.settings = settings
        self.provider = Provider(settings, Clients(documents or Documents()), count)
        self._logins = Logins(settings, self.provider)
        self.routes: list[BaseRoute] = [
            *endpoints(self.provider),
            *SignIn(settings, self.provider, self._logins).routes,
            *Home(settings, self.provider, self._logins).routes,
            page_route(frame.WAIT_SCRIPT, frame.wait_script),
        ]

    @property
    def auth(self) -> AuthSettings:
        """The argument ``auth`` of an MCPServer. Every token must be for its resource."""
        return AuthSettings(
            issuer_url=AnyHttpUrl(self.provider.issuer),
            resource_server_url=AnyHttpUrl(self.provider.resource),
            validate_token_resource=True,
        )

    @property
    def verifier(self) -> TokenVerifier:
        """The argument ``token_verifier`` of an MCPServer."""
        return ProviderTokenVerifier(self.provider)

    def widening_url(self, grant_id: str, wanted: Sequence[str]) -> str:
        """Return the page on which a person allows more scopes for a grant."""
        return f"{self.settings.public_url}{widening(grant_id, wanted)}"

    def protected(self, mcp: MCPServer) -> Starlette:
        """Return the application of an MCPServer that was made with ``auth`` and ``verifier``.

        Its ``routes`` and ``user_middleware`` belong in the outer application, after
        :attr:`routes`; ``mcp.session_manager.run()`` is entered by the lifespan of that one.
        """
        return mcp.streamable_http_app(
            streamable_http_path=MCP,
            json_response=True,
            transport_security=self._transport_security(),
        )

    def _transport_security(self) -> TransportSecuritySettings:
        """Allow the host of PUBLIC_URL and loopback, against DNS rebinding."""
        url = self.settings.public_url
        hosts = ["127.0.0.1", "localhost", "[::1]"]
        return TransportSecuritySettings(
            allowed_hosts=[urlsplit(url).netloc, *hosts, *(f"{host}:*" for host in hosts)],
            allowed_origins=[url, *(f"http://{host}:*" for host in hosts)],
        )

    @asynccontextmanager
    async def running(self, storage: RefreshTokenStorage) -> AsyncIterator[None]:
        """Serve from ``storage``, and work in the background, during the ``with`` block."""
        async with AsyncExitStack() as stack:
            self._logins.http = await stack.enter_async_context(
                open_http(count=partial(self.provider.count, "nextcloud"))
            )
            self.provider.storage = storage
            tasks = [
                asyncio.create_task(_repeat(_USES, self.provider.write_uses)),
                asyncio.create_task(_repeat(_SWEEP, lambda: sweep(storage))),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                with suppress(TokenStorageError):
                    await self.provider.write_uses()
                self.provider.storage = None
                self._logins.http = None


async def sweep(storage: RefreshTokenStorage) -> None:
    """Delete what has expired or is unused.

    Raises:
        TokenStorageError: as the store.
    """
    await storage.login_flows.delete_expired()
    await storage.oauth_sessions.delete_expired()
    await storage.browser_sessions.delete_expired()
    # In this order: a grant ends with its tokens, and a client with its grants.
    await storage.mcp_tokens.delete_expired()
    await storage.mcp_grants.delete_expired()
    await storage.mcp_clients.delete_expired()


async def _repeat(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Call ``work`` every so many seconds, also after it has failed."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except TokenStorageError as error:
            logger.warning("Background work failed: %s [%s]", error.message, error.code)
