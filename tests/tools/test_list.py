"""The list of tools: its text, its size, its annotations, and which tools are in it."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import pytest

from nextcloud_mcp_server.settings.nextcloud import AccountSettings
from nextcloud_mcp_server.tools.server import SCOPES, TOOLS
from tests.support.child import ROOT, run_program
from tests.support.nextcloud.server import StandIn
from tests.tools import snapshot
from tests.tools.conftest import Assistant, account, server

if TYPE_CHECKING:
    import httpx2

NAMES = {
    *("whoami", "files_list", "files_search", "files_read", "files_write", "files_move"),
    *("files_delete", "files_share", "notes_search", "notes_read", "notes_write"),
    *("calendar_list", "events_list", "event_read", "event_write", "event_delete"),
    *("tasks_list", "task_write", "contacts_search"),
}

WRITES = {
    *("files_write", "files_move", "files_delete", "files_share", "notes_write"),
    *("event_write", "event_delete", "task_write"),
}


async def test_every_text_is_in_the_reviewed_file() -> None:
    """tests/tools/tools.json has the names, texts, schemas and annotations of all tools."""
    assert snapshot.render(await snapshot.tools()) == snapshot.FILE.read_text("utf-8"), (
        "review the new texts, then: python -m tests.tools.snapshot"
    )


def test_the_list_is_complete_without_docstrings() -> None:
    """With `python -OO` the descriptions are read from the source text."""
    code = (
        "import asyncio; from tests.tools import snapshot; "
        "print(snapshot.render(asyncio.run(snapshot.tools())), end='')"
    )
    done = run_program(sys.executable, "-OO", "-c", code, cwd=ROOT)
    assert done.stdout == snapshot.FILE.read_text("utf-8")


async def test_the_list_is_short() -> None:
    """The whole list has under 6,000 tokens, with room for the tools of a mode.

    The number of tokens is estimated as a quarter of the characters of the compact JSON. With
    3.3 characters a token, as for dense JSON, 4,800 of these are 5,820.
    """
    text = json.dumps(await snapshot.tools(), separators=(",", ":"))
    assert len(text) / 4 < 4_800


async def test_each_tool_has_a_title_all_annotations_and_schemas() -> None:
    """A client can decide from the annotations what needs an approval."""
    for tool in await snapshot.tools():
        hints = tool["annotations"]
        assert tool["title"] == hints["title"]
        assert {"readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"} < set(hints)
        assert hints["readOnlyHint"] is (tool["name"] not in WRITES)
        assert tool["description"].endswith(".")
        assert tool["inputSchema"]["type"] == tool["outputSchema"]["type"] == "object"
        assert "note" in tool["outputSchema"]["properties"]


async def test_no_tool_takes_an_address_or_a_local_path() -> None:
    """No argument is a URL, a host or a file of this machine."""
    for tool in await snapshot.tools():
        for name in tool["inputSchema"].get("properties", {}):
            assert not re.search(r"url|uri|host|link|address|local|endpoint", name)


async def test_all_tools_are_listed_without_an_account(http: httpx2.AsyncClient, era: str) -> None:
    """Nothing configured: every tool is listed but files_share, and each says what to set."""
    nobody = AccountSettings("", "alice", "")
    assistant = Assistant(server(nobody, http), era)
    assert set(await assistant.names()) == NAMES - {"files_share"}
    sharing = Assistant(server(nobody._replace(share_links=True), http), era)
    assert set(await sharing.names()) == NAMES
    for tool in await snapshot.tools():
        wanted = tool["inputSchema"].get("required", [])
        types = {name: tool["inputSchema"]["properties"][name]["type"] for name in wanted}
        given = {name: 1 if kind == "integer" else "x" for name, kind in types.items()}
        error = await assistant.error(tool["name"], **given)
        assert "NEXTCLOUD_HOST, NEXTCLOUD_PASSWORD are not set" in error
        assert "app password" in error


async def test_share_links_are_off_by_default(
    stand_in: StandIn, http: httpx2.AsyncClient, era: str
) -> None:
    """files_share is not listed, and a call says how to allow it."""
    assistant = Assistant(server(account(stand_in, share_links=False), http), era)
    assert set(await assistant.names()) == NAMES - {"files_share"}
    assert "SHARE_LINKS=true" in await assistant.error("files_share", path="a")
    assert (await assistant.call("whoami"))["scopes"] == sorted(SCOPES - {"files:share"})
    assert stand_in.state.shares == []


async def test_read_only_takes_away_every_tool_that_writes(
    stand_in: StandIn, http: httpx2.AsyncClient, era: str
) -> None:
    """A writing tool is neither listed nor called."""
    assistant = Assistant(server(account(stand_in, read_only=True), http), era)
    assert set(await assistant.names()) == NAMES - WRITES
    for name in WRITES:
        assert "READ_ONLY=true" in await assistant.error(name, path="a", text="b")
    assert {seen.method for seen in stand_in.state.seen} <= {"GET"}


@pytest.mark.parametrize(
    ("switch", "missing"),
    [
        ("notes_enabled", {"notes_search", "notes_read", "notes_write"}),
        ("trash_enabled", {"files_delete"}),
        ("links_enabled", {"files_share"}),
    ],
)
async def test_tools_of_an_absent_app_are_not_listed(
    switch: str, missing: set[str], assistant: Assistant, stand_in: StandIn
) -> None:
    """The capabilities decide; a call nevertheless says which app is missing."""
    setattr(stand_in.state, switch, False)
    assert set(await assistant.names()) == NAMES - missing
    if switch == "notes_enabled":
        assert "enable Notes" in await assistant.error("notes_search")


async def test_tools_are_listed_while_nextcloud_does_not_answer(
    assistant: Assistant, stand_in: StandIn
) -> None:
    """In maintenance the list is complete, and a call says why it fails."""
    stand_in.state.maintenance = True
    assert set(await assistant.names()) == NAMES
    assert "maintenance mode" in await assistant.error("whoami")


def test_each_tool_has_its_name_and_a_fitting_scope() -> None:
    """Each tool has its own name; a tool that writes has no scope for reading."""
    assert len({tool.name for tool in TOOLS}) == len(TOOLS)
    for tool in TOOLS:
        assert tool.scope is None or tool.scope.endswith(":read") is tool.kind.reads
