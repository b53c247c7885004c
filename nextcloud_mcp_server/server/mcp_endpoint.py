"""The MCP server behind ``/mcp``: the tools for everybody who has connected a Nextcloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mcp.server.request_state import AESGCMRequestStateCodec, RequestStateSecurity

from nextcloud_mcp_server.oauth.provider import Provider
from nextcloud_mcp_server.oauth.server import AuthorizationServer
from nextcloud_mcp_server.server.people import People
from nextcloud_mcp_server.server.people_tools import connection_tools
from nextcloud_mcp_server.tools.server import create_mcp as create_tools

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

#: What the keys of the store are asked for.
_STATE: Final = "MCP request state"


def create_mcp(authorization: AuthorizationServer, people: People) -> MCPServer[Any]:
    """Return the MCP server, which only answers with a token of ``authorization``."""
    return create_tools(
        people,
        read_only=authorization.settings.read_only,
        share_links=authorization.settings.share_links,
        more=connection_tools(people),
        auth=authorization.auth,
        token_verifier=authorization.verifier,
        request_state_security=RequestStateSecurity(codec=StoreKeys(authorization.provider)),
    )


class StoreKeys:
    """Encrypts what clients carry between two calls, so that it outlives a restart.

    The keys are derived from those of the store, which is opened after the MCP server is made.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def seal(self, payload: bytes) -> str:
        """Return a token that only servers with this store can open."""
        return self._codec().seal(payload)

    def unseal(self, token: str) -> bytes:
        """Return what was encrypted.

        Raises:
            InvalidRequestState: it was not encrypted with a key of the store.
        """
        return self._codec().unseal(token)

    def _codec(self) -> AESGCMRequestStateCodec:
        return AESGCMRequestStateCodec(self._provider.storage.derived_keys(_STATE))
