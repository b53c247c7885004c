"""The tools over HTTP for many people, with the SDK's client in both eras."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from cryptography.fernet import Fernet
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.request_state import InvalidRequestState
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitRequestURLParams, ElicitResult

from nextcloud_mcp_server.auth.mcp_grants import McpGrant
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.oauth import provider as provider_module
from nextcloud_mcp_server.oauth import scopes
from nextcloud_mcp_server.oauth.clients import Clients
from nextcloud_mcp_server.oauth.documents import Documents
from nextcloud_mcp_server.oauth.provider import Provider
from nextcloud_mcp_server.server import people
from nextcloud_mcp_server.server.mcp_endpoint import StoreKeys
from nextcloud_mcp_server.tools.server import SCOPES
from tests.oauth import snapshot
from tests.oauth.conftest import serving
from tests.oauth.person import Program, Served
from tests.oauth.test_dance import Memory, auth
from tests.support.contents import KEY
from tests.support.nextcloud.server import StandIn
from tests.support.present import present
from tests.tools.snapshot import render
from tests.tools.snapshot import tools as all_tools

if TYPE_CHECKING:
    from mcp.client import ClientRequestContext
    from mcp_types import CallToolResult, ElicitRequestParams

ERAS = ("legacy", "2026-07-28")

EVERYTHING = tuple(name for name in scopes.SCOPES if name != scopes.SHARE)


@pytest.fixture(params=ERAS)
def era(request: pytest.FixtureRequest) -> str:
    """Each era of the protocol."""
    return str(request.param)


@asynccontextmanager
async def connected(
    served: Served, era: str, user: str = "alice", memory: Memory | None = None, **options: Any
) -> AsyncIterator[Client]:
    """Connect the SDK's client as a person."""
    async with (
        httpx2.AsyncClient(auth=auth(served, memory or Memory(), user), timeout=60) as http,
        Client(
            streamable_http_client(served.resource, http_client=http), mode=era, **options
        ) as client,
    ):
        yield client


@asynccontextmanager
async def stored(database: Path) -> AsyncIterator[RefreshTokenStorage]:
    """Open the store of the running server once more."""
    async with RefreshTokenStorage(database, encryption_key=KEY) as storage:
        yield storage


async def widen(served: Served, granted: Sequence[str] = EVERYTHING, user: str = "alice") -> None:
    """Grant scopes to the client of a person, as the page does."""
    async with stored(served.database) as storage:
        [grant] = await running(storage, user)
        assert await storage.mcp_grants.change_scopes(grant.grant_id, user, granted)


async def running(storage: RefreshTokenStorage, user: str = "alice") -> list[McpGrant]:
    """Return the grants of a person that are not revoked."""
    grants = await storage.mcp_grants.list_for_user(user)
    return [grant for grant in grants if grant.revoked_at is None]


def data(result: CallToolResult) -> dict[str, Any]:
    """Return the structured result of a call that succeeded."""
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


def error(result: CallToolResult) -> str:
    """Return the text of a call that failed."""
    assert result.is_error, result.structured_content
    return str(result.content)


def test_the_scopes_of_the_tools_are_those_that_can_be_granted() -> None:
    """No tool needs a scope that nobody can grant, and no scope is without a tool."""
    assert set(scopes.SCOPES) == SCOPES


async def test_the_tools_of_this_mode_are_reviewed() -> None:
    """tests/oauth/tools.json has their texts, schemas and annotations."""
    assert render(await snapshot.tools()) == snapshot.FILE.read_text("utf-8"), (
        "review the new texts, then: python -m tests.oauth.snapshot"
    )


async def test_the_whole_list_is_short() -> None:
    """All tools together have under 6,000 tokens, at 3.3 characters of JSON a token."""
    listed = [*await all_tools(), *await snapshot.tools()]
    assert len(json.dumps(listed, separators=(",", ":"))) / 3.3 < 6_000


async def test_a_person_reads_and_writes(served: Served, era: str) -> None:
    """A file is read, and after the person has widened the scopes a note and an event exist."""
    served.nextcloud.state.put_file("alice", "plan.txt", b"Ship it")
    async with connected(served, era) as client:
        assert data(await client.call_tool("files_read", {"path": "plan.txt"}))["text"] == "Ship it"
        note = {"title": "Plan", "text": "Three points"}
        assert "notes:write" in error(await client.call_tool("notes_write", note))
        await widen(served)
        data(await client.call_tool("notes_write", note))
        event = {
            "calendar": "personal",
            "title": "Launch",
            "start": "2026-12-01T10:00:00+01:00",
            "end": "2026-12-01T11:00:00+01:00",
        }
        data(await client.call_tool("event_write", event))
        told = data(await client.call_tool("whoami", {}))
    assert set(told["scopes"]) == set(EVERYTHING)


async def test_a_missing_scope_without_a_page_is_a_link(served: Served, era: str) -> None:
    """A client that cannot open pages gets the link in the error."""
    async with connected(served, era) as client:
        text = error(await client.call_tool("files_write", {"path": "a.txt", "text": "x"}))
    assert f"{served.url}/" in text
    assert ("a.txt",) not in served.nextcloud.state.users["alice"].files


async def test_a_missing_scope_is_asked_for(
    served: Served, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without sessions the call goes on once the person has allowed it; else the client repeats."""
    monkeypatch.setattr(people, "_PATIENCE", 1.0)
    allows = False
    urls: list[str] = []

    async def accept(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestURLParams)
        urls.append(params.url)
        if allows:
            await widen(served)
        return ElicitResult(action="accept")

    arguments = {"path": "a.txt", "text": "x"}
    async with connected(served, era, elicitation_callback=accept) as client:
        if era == "legacy":
            with pytest.raises(MCPError) as caught:
                await client.call_tool("files_write", arguments)
            assert caught.value.code == -32042
            [asked] = caught.value.data["elicitations"]
            assert asked["url"].startswith(f"{served.url}/home/scopes?grant=")
            assert asked["elicitationId"].endswith(":files:write")
            await widen(served)
        else:
            # To open the page is not to allow it.
            assert "not granted" in error(await client.call_tool("files_write", arguments))
            [url] = urls
            assert url.startswith(f"{served.url}/home/scopes?grant=")
            allows = True
        data(await client.call_tool("files_write", arguments))
    assert ("a.txt",) in served.nextcloud.state.users["alice"].files


async def test_a_person_who_does_not_open_the_page_is_not_asked_again(served: Served) -> None:
    """To decline ends the call."""

    async def decline(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        del context, params
        return ElicitResult(action="decline")

    async with connected(served, "2026-07-28", elicitation_callback=decline) as client:
        result = await client.call_tool("files_write", {"path": "a.txt", "text": "x"})
    text = error(result)
    assert "the person has not opened the page now" in text
    assert "possible at any time at http://" in text
    assert "Ask the person" not in text


async def test_what_is_under_way_outlives_a_restart(token_db: Path) -> None:
    """What a client carries is read by the next server with this key, and by no other one."""
    provider = Provider(snapshot.SETTINGS, Clients(Documents()))
    codec = StoreKeys(provider)
    async with stored(token_db) as storage:
        provider.storage = storage
        token = codec.seal(b"files:write")
    async with stored(token_db) as storage:
        provider.storage = storage
        assert codec.unseal(token) == b"files:write"
    other = token_db.with_name("other.db")
    async with RefreshTokenStorage(other, encryption_key=Fernet.generate_key()) as storage:
        provider.storage = storage
        with pytest.raises(InvalidRequestState):
            codec.unseal(token)


async def test_two_people_never_cross(served: Served, era: str) -> None:
    """Interleaved calls of two people over one HTTP client of the server get their own files."""
    for name in ("alice", "bob"):
        served.nextcloud.state.put_file(name, "mine.txt", name.encode())

    async def read(client: Client) -> str:
        text = data(await client.call_tool("files_read", {"path": "mine.txt"}))["text"]
        assert isinstance(text, str)
        return text

    async with (
        connected(served, era, "alice") as one,
        connected(served, era, "bob") as other,
    ):
        told = await asyncio.gather(*(read(client) for _ in range(10) for client in (one, other)))
    assert told == ["alice", "bob"] * 10


async def test_a_refused_password_is_sent_once(served: Served, era: str) -> None:
    """It is marked in the store, and every later call says how to connect again."""
    async with connected(served, era) as client:
        data(await client.call_tool("whoami", {}))
        served.nextcloud.state.users["alice"].app_passwords.clear()
        first = error(await client.call_tool("whoami", {}))
        before = len(served.nextcloud.state.seen)
        again = error(await client.call_tool("files_list", {}))
        assert len((await client.list_tools()).tools) > 2
        answer = await client.call_tool("connect", {})
        told = data(answer)
    [content] = answer.content
    assert content.type == "text"
    assert content.text == json.dumps(told, separators=(",", ":"), ensure_ascii=False)
    for text in (first, again, told["message"]):
        assert "refused the app password" in text
        assert f"{served.url}/" in text
    assert told["connected"] is False
    assert len(served.nextcloud.state.seen) == before
    async with stored(served.database) as storage:
        password = await storage.app_passwords.get("alice")
    assert password is not None
    assert password.refused_at is not None


async def test_another_nextcloud_gets_no_password(served: Served, era: str) -> None:
    """After NEXTCLOUD_HOST has changed, the person is asked to connect again."""
    async with connected(served, era) as client:
        data(await client.call_tool("whoami", {}))
        async with stored(served.database) as storage:
            password = await storage.app_passwords.get("alice")
            assert password is not None
            await storage.app_passwords.store(
                "alice", password.password, server="https://old.example.com"
            )
        before = len(served.nextcloud.state.seen)
        text = error(await client.call_tool("whoami", {}))
    assert "https://old.example.com" in text
    assert f"{served.url}/" in text
    assert len(served.nextcloud.state.seen) == before


async def test_disconnect_ends_one_client(served: Served, era: str) -> None:
    """The grant is revoked, and the app password stays for other clients."""
    async with stored(served.database) as storage:
        async with connected(served, era) as client:
            told = data(await client.call_tool("connect", {}))
            assert (told["connected"], told["user_id"]) == (True, "alice")
            assert told["scopes"] == list(scopes.DEFAULT)
            data(await client.call_tool("disconnect", {}))
        # After the client has closed its session.
        assert await running(storage) == []
        assert await storage.app_passwords.get("alice") is not None
        assert len(served.nextcloud.state.users["alice"].app_passwords) == 1


@pytest.mark.parametrize("mode", [*ERAS, "auto"])
@pytest.mark.parametrize("everybody", [False, True])
async def test_a_client_that_disconnects_gets_the_answer(
    served: Served, mode: str, everybody: bool
) -> None:
    """It lists the tools to check the answer, and closes its session; nobody signs in again."""
    async with stored(served.database) as storage:
        async with connected(served, mode) as client:
            told = data(await client.call_tool("disconnect", {"all": everybody}))
            assert told["connected"] is False
            text = error(await client.call_tool("whoami", {}))
            assert "was ended" in text
        assert await running(storage) == []
        assert len(await storage.mcp_grants.list_for_user("alice")) == 1


async def test_a_token_lists_tools_for_seconds_after_its_end(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards it is refused, as that of any other client at once."""
    memory, other = Memory(), Memory()
    async with connected(served, "2026-07-28", memory=other) as client:
        await client.list_tools()
    async with connected(served, "2026-07-28", memory=memory) as client:
        data(await client.call_tool("disconnect", {"all": True}))
    with Program(served) as program:
        headers = {"Accept": "application/json, text/event-stream"}

        def status(memory: Memory) -> int:
            token = present(memory.tokens).access_token
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            sent = {**headers, "Authorization": f"Bearer {token}"}
            return program.http.post("/mcp", json=body, headers=sent).status_code

        assert status(memory) != 401
        assert status(other) == 401
        monkeypatch.setattr(provider_module, "CLOSING", 0.0)
        assert status(memory) == 401


async def test_disconnect_all_deletes_the_app_password(served: Served, era: str) -> None:
    """Every grant ends, and the password is deleted here and in Nextcloud, with itself."""
    async with stored(served.database) as storage:
        async with connected(served, era) as client:
            data(await client.call_tool("disconnect", {"all": True}))
        assert await running(storage) == []
        assert await storage.app_passwords.get("alice") is None
        assert not served.nextcloud.state.users["alice"].app_passwords


async def test_links_and_reading_only(token_db: Path, nextcloud: StandIn, era: str) -> None:
    """SHARE_LINKS lists the tool for links, and READ_ONLY takes away what writes in Nextcloud."""
    for read_only, share_links in ((False, False), (False, True), (True, False)):
        switches = {"read_only": read_only, "share_links": share_links}
        with serving(token_db, nextcloud, **switches) as served:
            async with connected(served, era) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                result = await client.call_tool("files_share", {"path": "a"})
        assert ("files_share" in names) is share_links
        assert ("files_write" in names) is not read_only
        assert {"connect", "disconnect", "whoami", "files_list"} <= names
        if not share_links:
            assert ("READ_ONLY" if read_only else "SHARE_LINKS=true") in error(result)
