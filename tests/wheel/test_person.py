"""A person connects an assistant to a Nextcloud with the installed program, as the README says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from nextcloud_mcp_server.oauth.home_pages import DISCONNECT, REVOKE, SCOPES
from tests.oauth.person import Browser, Served
from tests.oauth.test_home import grant_id
from tests.oauth.test_tools import ERAS, connected, data, error
from tests.support.files import names
from tests.support.nextcloud.server import StandIn, running
from tests.wheel.conftest import Installed

if TYPE_CHECKING:
    from httpx2 import Response

EVENT = {
    "title": "Review",
    "start": "2026-12-02T10:00:00+01:00",
    "end": "2026-12-02T11:00:00+01:00",
}


@pytest.fixture
def nextcloud() -> Iterator[StandIn]:
    """A Nextcloud in which alice has a file."""
    with running() as found:
        found.state.put_file("alice", "plan.txt", b"Buy milk.")
        yield found


@pytest.fixture
def served(installed: Installed, nextcloud: StandIn, tmp_path: Path) -> Iterator[Served]:
    """The installed server in an empty folder; only the address of Nextcloud is configured."""
    database = tmp_path / "tokens.db"
    variables = {"TOKEN_STORAGE_DB": str(database), "NEXTCLOUD_HOST": nextcloud.url}
    with installed.serving(tmp_path, variables) as url:
        yield Served(url, database, nextcloud)


def allowed(page: Response) -> list[str]:
    """Return the scopes that are ticked on home."""
    return re.findall(r'value="([\w:]+)" checked', page.text)


@pytest.mark.parametrize("era", ERAS)
async def test_many_people_over_http(served: Served, era: str) -> None:
    """Sign in, read a file, widen, write a note, make an event, revoke: each is seen on home."""
    with Browser(served) as browser:
        async with connected(served, era) as client:
            assert data(await client.call_tool("whoami", {}))["user_id"] == "alice"
            read = data(await client.call_tool("files_read", {"path": "plan.txt"}))
            assert read["text"] == "Buy milk."
            home = browser.sign_in_at_home()
            assert allowed(home) == ["files:read", "notes:read", "calendar:read", "contacts:read"]

            for scope, tool, arguments in (
                ("notes:write", "notes_write", {"title": "From the wheel", "text": "three points"}),
                ("calendar:write", "event_write", {"calendar": "personal", **EVENT}),
            ):
                told = error(await client.call_tool(tool, arguments))
                [link] = re.findall(rf"{served.url}{SCOPES}\?[^\s'\"]+", told)
                done = browser.send(SCOPES, browser.open(link))
                assert "may now" in done.text
                assert scope in allowed(browser.open("/"))
                data(await client.call_tool(tool, arguments))
            user = served.nextcloud.state.users["alice"]
            assert [note.title for note in user.notes.values()] == ["From the wheel"]
            listed = data(
                await client.call_tool(
                    "events_list", {"start": "2026-12-02T00:00:00Z", "end": "2026-12-03T00:00:00Z"}
                )
            )
            assert [event["title"] for event in listed["items"]] == ["Review"]

            asked = browser.send(REVOKE, browser.open("/"), grant=grant_id(served))
            browser.send(REVOKE, asked)
            assert "You revoked it here." in browser.open("/").text
        home = browser.send(DISCONNECT, browser.open("/"))
        browser.send(DISCONNECT, home)
    assert not user.app_passwords


@pytest.mark.parametrize("era", ERAS)
async def test_one_person_over_stdio(
    installed: Installed, nextcloud: StandIn, era: str, tmp_path: Path
) -> None:
    """A client starts the command with three variables; nothing is written into the folder."""
    password = nextcloud.state.app_password("bob")
    parameters = StdioServerParameters(
        command=installed.script,
        args=["stdio"],
        cwd=tmp_path,
        env=installed.environment(
            NEXTCLOUD_HOST=nextcloud.url, NEXTCLOUD_USERNAME="bob", NEXTCLOUD_PASSWORD=password
        ),
    )
    async with Client(stdio_client(parameters), mode=era) as client:
        assert data(await client.call_tool("whoami", {}))["user_id"] == "bob"
        written = data(await client.call_tool("files_write", {"path": "a.txt", "text": "x"}))
        assert written["path"] == "a.txt"
    assert not names(tmp_path)
