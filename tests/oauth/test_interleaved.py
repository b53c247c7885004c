"""Many calls of several people at once, over one server and its one client of Nextcloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from mcp import Client as Sdk
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from nextcloud_mcp_server.nextcloud.client import Nextcloud
from nextcloud_mcp_server.server import people
from nextcloud_mcp_server.server.people import People
from tests.oauth.conftest import serving
from tests.oauth.person import Browser, Client, Served, answer
from tests.oauth.test_tools import ERAS, EVERYTHING, data
from tests.support.nextcloud.server import StandIn

#: Who is disconnected in the middle, and who is not.
LEAVES: Final = "carol"
STAY: Final = ("alice", "bob", "dave")

#: Tasks of each person in each era, and rounds of each.
TASKS: Final = 2
ROUNDS: Final = 2


class Bearer(httpx2.Auth):
    """Sends the newest access token of a person."""

    def __init__(self) -> None:
        self.token = ""

    def auth_flow(
        self, request: httpx2.Request
    ) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Add it to a request."""
        request.headers["Authorization"] = f"Bearer {self.token}"
        yield request


@dataclass
class Caller:
    """A person with a client, whose data each answer was, and the calls that failed."""

    user: str
    client: Client
    bearer: Bearer
    refresh_token: str
    told: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    refreshed: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def refresh(self) -> None:
        """Exchange the refresh token; nothing changes if it is refused."""
        answer = self.client.refresh(self.refresh_token)
        if answer.status_code == 200:
            self.bearer.token = answer.json()["access_token"]
            self.refresh_token = answer.json().get("refresh_token", self.refresh_token)
            self.refreshed += 1


def sign_in(served: Served, user: str) -> Caller:
    """Sign a person in with a client of its own and every scope."""
    client = Client(served)
    client.register(client_name=f"Program of {user}")
    with Browser(served) as browser:
        back = browser.sign_in(client.url(scope=" ".join(EVERYTHING)), user)
    issued = client.redeem(answer(back)["code"]).json()
    caller = Caller(user, client, Bearer(), issued["refresh_token"])
    caller.bearer.token = issued["access_token"]
    return caller


@asynccontextmanager
async def session(served: Served, caller: Caller, era: str) -> AsyncIterator[Sdk]:
    """Connect the SDK's client with the tokens of a person."""
    async with (
        httpx2.AsyncClient(auth=caller.bearer, timeout=20, trust_env=False) as http,
        Sdk(streamable_http_client(served.resource, http_client=http), mode=era) as sdk,
    ):
        yield sdk


async def work(caller: Caller, sdk: Sdk, name: str) -> None:
    """Read and write through several tools, and note whose data came back."""
    for number in range(ROUNDS):
        if number == name.count("x") % ROUNDS:
            await asyncio.to_thread(caller.refresh)
        try:
            await _round(caller, sdk, f"{name}-{number}")
        except (AssertionError, MCPError) as error:
            caller.failed.append(str(error))
        caller.begun.set()


async def _round(caller: Caller, sdk: Sdk, name: str) -> None:
    path, text = f"{name}.txt", f"{caller.user} wrote {name}"

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        return data(await sdk.call_tool(tool, arguments, read_timeout_seconds=30))

    caller.told.append((await call("whoami"))["user_id"])
    await call("files_write", path=path, text=text)
    note = await call("notes_write", title=name, text=f"{caller.user} noted {name}")
    read, listed, noted = await asyncio.gather(
        call("files_read", path=path),
        call("files_list"),
        call("notes_read", id=note["id"]),
    )
    own = [item["path"] for item in listed["items"] if item["path"].startswith("of-")]
    caller.told += [one.partition(" ")[0] for one in (read["text"], noted["text"])]
    caller.told += [name[len("of-") : -len(".txt")] for name in own]


async def interleave(served: Served) -> list[Caller]:
    """Let everybody work at once in both eras; one person is disconnected in the middle."""
    state = served.nextcloud.state
    state.add_user("carol", "carol-login-password")
    state.add_user("dave", "dave-login-password", login_name="dave@example.com")
    users = (*STAY, LEAVES)
    for user in users:
        state.put_file(user, f"of-{user}.txt", user.encode())
    callers = await asyncio.gather(*(asyncio.to_thread(sign_in, served, user) for user in users))
    async with AsyncExitStack() as stack:
        for caller in callers:
            stack.callback(caller.client.http.close)
        sessions = [
            (caller, era, await stack.enter_async_context(session(served, caller, era)))
            for caller in callers
            for era in ERAS
        ]
        tasks = [
            asyncio.ensure_future(work(caller, sdk, f"{era}-{'x' * number}"))
            for number in range(TASKS)
            for caller, era, sdk in sessions
        ]
        leaving = next(caller for caller in callers if caller.user == LEAVES)
        await leaving.begun.wait()
        [sdk, *_] = [sdk for caller, era, sdk in sessions if caller is leaving and era != "legacy"]
        data(await sdk.call_tool("disconnect", {"all": True}))
        await asyncio.gather(*tasks)
    return callers


async def test_nobody_gets_what_is_another_persons(served: Served) -> None:
    """Four people in both eras, while tokens are refreshed and one of them is disconnected."""
    callers = await interleave(served)
    for caller in callers:
        assert set(caller.told) == {caller.user}
        everything = len(ERAS) * TASKS * ROUNDS * 4
        if caller.user == LEAVES:
            assert caller.failed
            assert len(caller.told) < everything
        else:
            assert caller.failed == []
            assert len(caller.told) == everything
            assert caller.refreshed == len(ERAS) * TASKS
            user = served.nextcloud.state.users[caller.user]
            written = [node.content for path, node in user.files.items() if path]
            texts = [note.content for note in user.notes.values()]
            assert len(texts) == len(written) - 1 == len(ERAS) * TASKS * ROUNDS
            for text in (*texts, *(str(content, "utf-8") for content in written if content)):
                assert text.partition(" ")[0] == caller.user
    assert served.nextcloud.state.users[LEAVES].app_passwords == {}


@pytest.mark.parametrize("fault", ["one client for all", "cookies"])
async def test_a_crossing_would_be_seen(
    token_db: Path, nextcloud: StandIn, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with a shared login, or with a cookie jar, people get each other's data."""
    if fault == "cookies":
        monkeypatch.setattr(people, "open_http", lambda **_: httpx2.AsyncClient(trust_env=False))
    else:
        client, first = People._client, list[Nextcloud]()

        def shared(self: People, password: Any) -> Nextcloud:
            first.append(client(self, password))
            return first[0]

        monkeypatch.setattr(People, "_client", shared)
    with serving(token_db, nextcloud) as served:
        callers = await interleave(served)
    assert any(set(caller.told) != {caller.user} for caller in callers)
