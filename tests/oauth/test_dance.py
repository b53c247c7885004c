"""The SDK's own client signs in, calls a tool and refreshes, in both eras of the protocol."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing

import httpx2
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from pydantic import AnyUrl

from tests.oauth.person import Browser, Served, answer
from tests.support.present import present


class Memory:
    """The token storage of a client."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        """Return the tokens."""
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Keep the tokens."""
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """Return the registration."""
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Keep the registration."""
        self.client = client_info


def auth(served: Served, memory: Memory, user: str) -> OAuthClientProvider:
    """Return the authentication of an SDK client whose person is ``user``."""
    back: list[str] = []

    async def redirect(url: str) -> None:
        with Browser(served) as browser:
            back.append(await asyncio.to_thread(browser.sign_in, url, user))

    async def callback() -> AuthorizationCodeResult:
        found = answer(back.pop())
        return AuthorizationCodeResult(
            code=found["code"], state=found["state"], iss=found.get("iss")
        )

    return OAuthClientProvider(
        served.resource,
        OAuthClientMetadata(
            client_name="SDK client", redirect_uris=[AnyUrl("http://localhost:3030/callback")]
        ),
        memory,
        redirect,
        callback,
    )


async def whoami(served: Served, memory: Memory, user: str, mode: str) -> dict[str, object]:
    """Connect as a person, and return what the tool says."""
    async with (
        httpx2.AsyncClient(auth=auth(served, memory, user), timeout=60) as http,
        Client(streamable_http_client(served.resource, http_client=http), mode=mode) as mcp,
    ):
        result = await mcp.call_tool("whoami", {})
    assert not result.is_error
    return present(result.structured_content)


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28", "auto"])
async def test_a_person_connects_and_calls_a_tool(served: Served, mode: str) -> None:
    """The whole dance ends with the id of the user, which is not the login name."""
    memory = Memory()
    told = await whoami(served, memory, "alice", mode)
    assert told["user_id"] == "alice"
    assert told["scopes"] == ["calendar:read", "contacts:read", "files:read", "notes:read"]
    assert present(memory.client).client_secret is None
    assert present(memory.client).token_endpoint_auth_method == "none"
    [seen] = {
        request.headers["user-agent"]
        for request in served.nextcloud.state.seen
        if request.path.startswith("/index.php/login/v2")
    }
    assert re.fullmatch(r"nextcloud-mcp-server at 127\.0\.0\.1:\d+ \(SDK client\)", seen)


async def test_an_expired_access_token_is_refreshed(served: Served) -> None:
    """The SDK's client exchanges its refresh token without the person."""
    memory = Memory()
    provider = auth(served, memory, "alice")
    async with (
        httpx2.AsyncClient(auth=provider, timeout=60) as http,
        Client(streamable_http_client(served.resource, http_client=http)) as mcp,
    ):
        await mcp.call_tool("whoami", {})
        before = present(memory.tokens)
        provider.context.token_expiry_time = 1
        assert not (await mcp.call_tool("whoami", {})).is_error
    after = present(memory.tokens)
    assert after.access_token != before.access_token
    assert after.refresh_token not in {None, before.refresh_token}


async def test_two_people_never_cross(served: Served) -> None:
    """Two people sign in at the same time, and each gets an own grant."""
    told = await asyncio.gather(
        *(whoami(served, Memory(), user, "2026-07-28") for user in ("alice", "bob"))
    )
    assert [one["user_id"] for one in told] == ["alice", "bob"]


async def test_secrets_are_nowhere_in_plain(served: Served) -> None:
    """Tokens, codes and app passwords are in no table, log or answer."""
    memory = Memory()
    await whoami(served, memory, "alice", "2026-07-28")
    [password] = served.nextcloud.state.users["alice"].app_passwords
    with closing(sqlite3.connect(served.database)) as connection:
        dump = "\n".join(connection.iterdump())
    tokens = present(memory.tokens)
    for secret in (password, tokens.access_token, present(tokens.refresh_token)):
        assert secret not in dump
    for request in served.nextcloud.state.seen:
        assert tokens.access_token not in str(request)
