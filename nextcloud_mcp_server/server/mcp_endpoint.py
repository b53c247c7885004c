"""The MCP server behind ``/mcp``, and its tools."""

from __future__ import annotations

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.oauth.server import AuthorizationServer


class Identity(BaseModel):
    """Who is connected, and what the client may do."""

    user_id: str
    scopes: list[str]
    nextcloud: str


def create_mcp(authorization: AuthorizationServer) -> MCPServer:
    """Return the MCP server, which only answers with a token of ``authorization``."""
    mcp = MCPServer(
        "nextcloud-mcp-server",
        title="Nextcloud",
        version=__version__,
        auth=authorization.auth,
        token_verifier=authorization.verifier,
    )

    @mcp.tool(
        title="Who am I",
        annotations=ToolAnnotations(
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )
    async def whoami() -> Identity:
        """Return the connected Nextcloud user, and what this client may do."""
        token = get_access_token()
        if token is None or token.subject is None:
            raise ToolError("No account is connected. Connect again.")
        return Identity(
            user_id=token.subject,
            scopes=token.scopes,
            nextcloud=authorization.settings.browser_url,
        )

    return mcp
