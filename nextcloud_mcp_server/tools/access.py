"""The seam between the tools and a mode of the server: who is calling, and what is granted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.nextcloud.errors import NextcloudError

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import InputRequiredResult


#: The scope of the tool that creates links.
SHARE: Final = "files:share"


@dataclass(frozen=True)
class Person:
    """The person for whom a call runs.

    Attributes:
        nextcloud: the client. Keep one object for a password, so that a refused one is tried once.
        scopes: those whose tools are listed: the granted ones, and those that
            :meth:`Access.require` can ask the person for.
        advice: what the person should change in the connection; empty if nothing.
    """

    nextcloud: Nextcloud
    scopes: frozenset[str]
    advice: str = ""


class Access(Protocol):
    """Finds the person behind a request. Each mode of the server has one implementation."""

    async def person(self) -> Person | None:
        """Return the person for the list of tools; None if nobody is connected. Ask nobody."""

    async def require(
        self, scope: str | None, context: Context[Any, Any]
    ) -> Person | InputRequiredResult:
        """Return the person for a call that needs a scope, or what the client has to ask first.

        Args:
            scope: that of the tool; None if being connected is enough.
            context: of the call, to ask the person with.

        Raises:
            ToolError: nobody is connected, or the scope is not granted: it says what to do.
            MCPError: the client has to open a page first.
        """

    async def failed(self, error: NextcloudError) -> ToolError:
        """Return what to tell after a request has failed, and what to do next.

        If Nextcloud has refused the password (``reconnect``), that is how to connect again.
        """
