"""The seam of the tools: another access than that of one person, as the HTTP mode has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp import Client
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
)

from nextcloud_mcp_server.nextcloud.errors import NextcloudError
from nextcloud_mcp_server.tools.access import Access, Person
from nextcloud_mcp_server.tools.one_person import OnePerson
from nextcloud_mcp_server.tools.server import SCOPES, create_mcp
from tests.support.nextcloud.server import StandIn
from tests.tools.conftest import Assistant, account

if TYPE_CHECKING:
    import httpx2
    from mcp.client import ClientRequestContext
    from mcp.server.mcpserver import Context
    from mcp_types import ElicitRequestParams

LISTED = frozenset({"files:read", "files:write"})


@dataclass
class Widening:
    """Asks for a scope that is listed and not granted, and takes an accepted page as the grant."""

    nextcloud: Person
    granted: set[str] = field(default_factory=lambda: {"files:read"})

    async def person(self) -> Person | None:
        """Return the person with the scopes that can be asked for."""
        return Person(self.nextcloud.nextcloud, LISTED)

    async def require(
        self, scope: str | None, context: Context[Any, Any]
    ) -> Person | InputRequiredResult:
        """Return the person, or what to ask."""
        if scope is not None and scope not in self.granted:
            if context.protocol_version != "2026-07-28":
                raise ToolError(f"Grant {scope} at https://mcp.example.com/grant.")
            if context.input_responses is None:
                url = "https://mcp.example.com/grant"
                params = ElicitRequestURLParams(message=f"Grant {scope}", url=url)
                return InputRequiredResult(input_requests={"grant": ElicitRequest(params=params)})
            self.granted.add(scope)
        return Person(self.nextcloud.nextcloud, LISTED)

    async def failed(self, error: NextcloudError) -> ToolError:
        """Return the way to connect again."""
        return ToolError(f"{error.code}: open https://mcp.example.com/connect.")


async def _person(stand_in: StandIn, http: httpx2.AsyncClient, **changed: str) -> Person:
    person = await OnePerson(account(stand_in, **changed), http, SCOPES).person()
    assert person is not None
    return person


async def test_a_missing_scope_is_asked_for(
    stand_in: StandIn, http: httpx2.AsyncClient, era: str
) -> None:
    """Without a session the client opens the page and calls again; else the error has the link."""
    access: Access = Widening(await _person(stand_in, http))
    mcp = create_mcp(access)
    asked: list[str] = []

    async def accept(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestURLParams)
        asked.append(params.url)
        return ElicitResult(action="accept")

    async with Client(mcp, mode=era, elicitation_callback=accept) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        assert listed == {"whoami", *(name for name in listed if name.startswith("files_"))}
        assert "files_share" not in listed
        result = await client.call_tool("files_write", {"path": "a.txt", "text": "x"})
    if era == "legacy":
        assert "Grant files:write at https://mcp.example.com/grant." in str(result.content)
        assert asked == []
    else:
        assert not result.is_error
        assert asked == ["https://mcp.example.com/grant"]
        assert ("a.txt",) in stand_in.state.users["alice"].files


async def test_a_refused_password_is_told_by_the_access(
    stand_in: StandIn, http: httpx2.AsyncClient, era: str
) -> None:
    """The HTTP mode marks the grant, and says where to connect."""
    access = Widening(await _person(stand_in, http, password="wrong"))
    error = await Assistant(create_mcp(access), era).error("files_list")
    assert "reconnect: open https://mcp.example.com/connect." in error


async def test_the_tools_of_a_mode_are_always_listed(
    stand_in: StandIn, http: httpx2.AsyncClient, era: str
) -> None:
    """They are there also for reading only, with a scope missing, and before a connection."""

    async def connect() -> str:
        """Connect."""
        return "connected"

    access = Widening(await _person(stand_in, http))
    more = [Tool.from_function(connect)]
    assistant = Assistant(create_mcp(access, read_only=True, more=more), era)
    names = await assistant.names()
    assert names == ["whoami", "files_list", "files_search", "files_read", "connect"]
    assert await assistant.call("connect") == {"result": "connected"}
