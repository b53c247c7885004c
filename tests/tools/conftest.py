"""An assistant that uses the tools of a Nextcloud, in both eras of the protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from mcp import Client

from nextcloud_mcp_server.nextcloud.connection import open_http
from nextcloud_mcp_server.settings.nextcloud import AccountSettings
from nextcloud_mcp_server.tools.one_person import OnePerson
from nextcloud_mcp_server.tools.server import SCOPES, create_mcp
from tests.support.nextcloud.server import StandIn, running
from tests.support.nextcloud.state import User

if TYPE_CHECKING:
    import httpx2
    from mcp.server.mcpserver import MCPServer
    from mcp_types import CallToolResult

#: The era with a handshake, and the one without a session.
ERAS = ("legacy", "2026-07-28")


@dataclass
class Assistant:
    """A client of the tools, with what it was told about progress."""

    server: MCPServer[Any]
    era: str
    progress: list[str | None] = field(default_factory=list)

    async def names(self) -> list[str]:
        """Return the names of the listed tools."""
        async with Client(self.server, mode=self.era) as client:
            return [tool.name for tool in (await client.list_tools()).tools]

    async def result(self, tool: str, /, **arguments: Any) -> CallToolResult:
        """Call a tool."""

        async def note(progress: float, total: float | None, message: str | None) -> None:
            del progress, total
            self.progress.append(message)

        async with Client(self.server, mode=self.era) as client:
            return await client.call_tool(tool, arguments, progress_callback=note)

    async def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool that succeeds, and return its structured result."""
        result = await self.result(tool, **arguments)
        assert not result.is_error, result.content
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def error(self, tool: str, /, **arguments: Any) -> str:
        """Call a tool that fails, and return the text of its error."""
        result = await self.result(tool, **arguments)
        assert result.is_error, result.content
        [content] = result.content
        assert content.type == "text"
        return content.text


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    """A Nextcloud with the users alice and bob."""
    with running() as found:
        yield found


@pytest.fixture
def alice(stand_in: StandIn) -> User:
    """Alice, as her Nextcloud stores her."""
    return stand_in.state.users["alice"]


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    """The HTTP client of the process."""
    async with open_http() as client:
        yield client


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """Each era of the protocol."""
    return str(request.param)


def account(stand_in: StandIn, **changed: Any) -> AccountSettings:
    """Return the settings for alice, with a new app password."""
    settings = AccountSettings(
        stand_in.url,
        stand_in.state.users["alice"].login_name,
        stand_in.state.app_password("alice"),
        share_links=True,
    )
    return settings._replace(**changed)


def server(settings: AccountSettings, http: httpx2.AsyncClient) -> MCPServer[Any]:
    """Return the tools for one person."""
    return create_mcp(
        OnePerson(settings, http, SCOPES),
        read_only=settings.read_only,
        share_links=settings.share_links,
    )


@pytest.fixture
def assistant(stand_in: StandIn, http: httpx2.AsyncClient, era: str) -> Assistant:
    """An assistant with every tool of alice's Nextcloud."""
    return Assistant(server(account(stand_in), http), era)
