"""MCP clients, grants and tokens: redeem, refresh, revoke and sweep, on both engines."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from nextcloud_mcp_server.auth.mcp_clients import IDLE, UNUSED
from nextcloud_mcp_server.auth.mcp_grants import (
    BY_USER,
    GRACE,
    KEPT,
    REUSED_CODE,
    REUSED_TOKEN,
    IssuedTokens,
)
from nextcloud_mcp_server.auth.mcp_tokens import ACCESS, ACCESS_LIFE, REFRESH, REFRESH_LIFE
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed
from tests.auth.helpers import NOW, Clock, events
from tests.support.contents import KEY
from tests.support.present import present

CLIENT = "client-1"
RESOURCE = "https://mcp.example.com/mcp"
SESSION = "session-0123456789-abcdef"
CODE = "code-0123456789-0123456789-abcdef"


async def authorize(storage: RefreshTokenStorage, code: str = CODE, user: str = "alice") -> None:
    """Store an authorization whose code waits to be redeemed."""
    sessions = storage.oauth_sessions
    session = f"{SESSION}-{code}"
    await sessions.create(
        session,
        "http://127.0.0.1:1/cb",
        client_id=CLIENT,
        expires_at=NOW + 1200,
        resource=RESOURCE,
        redirect_uri_given=True,
        browser_id="browser-0123456789-abcdef",
    )
    await sessions.update(
        session,
        user_id=user,
        granted_scopes=["files:read", "notes:read"],
        mcp_authorization_code=code,
        code_expires_at=NOW + 60,
    )


async def grant(
    storage: RefreshTokenStorage, code: str = CODE, user: str = "alice"
) -> IssuedTokens:
    """Return the first tokens of a new grant."""
    await authorize(storage, code, user)
    return present(await storage.mcp_grants.redeem(code, client_id=CLIENT))


async def test_a_code_becomes_a_grant_with_tokens(storage: RefreshTokenStorage) -> None:
    """The tokens carry the scopes, user, client and resource of the authorization."""
    issued = await grant(storage)
    assert issued.expires_in == ACCESS_LIFE
    access = present(await storage.mcp_tokens.find_valid(issued.access_token, ACCESS))
    assert (access.user_id, access.client_id, access.resource) == ("alice", CLIENT, RESOURCE)
    assert access.scopes == ("files:read", "notes:read")
    refresh = present(await storage.mcp_tokens.find(present(issued.refresh_token)))
    assert (refresh.kind, refresh.expires_at) == (REFRESH, NOW + REFRESH_LIFE)
    assert await storage.mcp_tokens.find_valid(issued.access_token, REFRESH) is None
    assert await storage.mcp_tokens.find_valid(hashed(issued.access_token)[:], ACCESS) is None
    assert issued.access_token not in repr(issued)
    assert ("create_mcp_grant", "alice") in await events(storage)


async def test_a_code_used_twice_revokes_its_grant(storage: RefreshTokenStorage) -> None:
    """The second use gets nothing, and the tokens of the first one end; it is recorded."""
    issued = await grant(storage)
    assert await storage.mcp_grants.redeem(CODE, client_id="another") is None
    assert present(await storage.mcp_grants.get(issued.grant_id)).revoked_at is None
    assert await storage.mcp_grants.redeem(CODE, client_id=CLIENT) is None
    assert present(await storage.mcp_grants.get(issued.grant_id)).revoked_why == REUSED_CODE
    assert await storage.mcp_tokens.find_valid(issued.access_token, ACCESS) is None
    assert (await events(storage))[-1] == ("revoke_reused_mcp_grant", "alice")


async def test_two_redemptions_at_once_give_one_grant(storage: RefreshTokenStorage) -> None:
    """One caller gets tokens, the other nothing, and the grant is revoked."""
    await authorize(storage)
    results = await asyncio.gather(
        *(storage.mcp_grants.redeem(CODE, client_id=CLIENT) for _ in range(2))
    )
    [issued] = [result for result in results if result is not None]
    assert present(await storage.mcp_grants.get(issued.grant_id)).revoked_why == REUSED_CODE


async def test_a_code_is_for_its_client_and_for_a_minute(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """Another client gets nothing and does not spend the code; after a minute nobody does."""
    await authorize(storage)
    assert await storage.mcp_grants.redeem(CODE, client_id="another") is None
    clock.time += 60
    assert await storage.mcp_grants.redeem(CODE, client_id=CLIENT) is None
    assert await storage.mcp_grants.redeem("unknown", client_id=CLIENT) is None


async def test_a_refresh_rotates_the_token(storage: RefreshTokenStorage) -> None:
    """Both tokens are new, and the old access token lives on until it expires."""
    first = await grant(storage)
    second = present(
        await storage.mcp_grants.refresh(present(first.refresh_token), client_id=CLIENT)
    )
    assert second.grant_id == first.grant_id
    assert second.refresh_token not in {None, first.refresh_token}
    for token in (first.access_token, second.access_token):
        assert await storage.mcp_tokens.find_valid(token, ACCESS)


async def test_within_the_grace_an_old_token_gets_an_access_token_alone(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """Also after the successor was used; a second later the grant is revoked, and recorded."""
    first = await grant(storage)
    old = present(first.refresh_token)
    second = present(await storage.mcp_grants.refresh(old, client_id=CLIENT))
    assert await storage.mcp_grants.refresh(present(second.refresh_token), client_id=CLIENT)
    clock.time += GRACE
    again = present(await storage.mcp_grants.refresh(old, client_id=CLIENT))
    assert again.refresh_token is None
    assert await storage.mcp_tokens.find_valid(again.access_token, ACCESS)
    clock.time += 1
    assert await storage.mcp_grants.refresh(old, client_id=CLIENT) is None
    ended = present(await storage.mcp_grants.get(first.grant_id))
    assert (ended.revoked_why, ended.revoked_at) == (REUSED_TOKEN, NOW + GRACE + 1)
    assert await storage.mcp_tokens.find_valid(again.access_token, ACCESS) is None
    assert (await events(storage))[-1] == ("revoke_reused_mcp_grant", "alice")


async def test_a_clock_that_is_set_back_gives_no_longer_grace(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """A token that was exchanged more than a minute in the future was reused too."""
    first = await grant(storage)
    old = present(first.refresh_token)
    assert await storage.mcp_grants.refresh(old, client_id=CLIENT)
    clock.time -= GRACE
    assert await storage.mcp_grants.refresh(old, client_id=CLIENT)
    clock.time -= 1
    assert await storage.mcp_grants.refresh(old, client_id=CLIENT) is None
    assert present(await storage.mcp_grants.get(first.grant_id)).revoked_why == REUSED_TOKEN


async def test_a_revocation_during_refreshes_leaves_no_valid_token(
    storage: RefreshTokenStorage,
) -> None:
    """Whatever the order is in which they reach the database."""
    for number in range(8):
        issued = await grant(storage, f"{CODE}{number}")
        token = present(issued.refresh_token)
        refreshes = asyncio.gather(
            *(storage.mcp_grants.refresh(token, client_id=CLIENT) for _ in range(4))
        )
        assert await storage.mcp_grants.revoke(issued.grant_id, BY_USER)
        for one in (issued, *(found for found in await refreshes if found is not None)):
            assert await storage.mcp_tokens.find_valid(one.access_token, ACCESS) is None
            newest = one.refresh_token or token
            assert await storage.mcp_grants.refresh(newest, client_id=CLIENT) is None


async def test_a_user_who_leaves_during_redemptions_leaves_nothing(
    storage: RefreshTokenStorage,
) -> None:
    """The sign-ins end first, then the grants: a code becomes no grant that nobody ends."""
    codes = [f"{CODE}{number}" for number in range(8)]
    for code in codes:
        await authorize(storage, code)
    await authorize(storage, f"{CODE}-of-bob", "bob")

    async def leave() -> None:
        await storage.oauth_sessions.delete_for_user("alice")
        await storage.mcp_grants.revoke_for_user("alice", BY_USER)

    redeemed = [storage.mcp_grants.redeem(code, client_id=CLIENT) for code in codes]
    await asyncio.gather(*redeemed[:4], leave(), *redeemed[4:])
    for one in await storage.mcp_grants.list_for_user("alice"):
        assert one.revoked_at is not None
    for code in codes:
        assert await storage.mcp_grants.redeem(code, client_id=CLIENT) is None
    assert await storage.mcp_grants.redeem(f"{CODE}-of-bob", client_id=CLIENT)


async def test_a_refresh_token_is_for_its_client_and_expires(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """Another client, an access token and an expired token refresh nothing, and revoke nothing."""
    issued = await grant(storage)
    token = present(issued.refresh_token)
    assert await storage.mcp_grants.refresh(token, client_id="another") is None
    assert await storage.mcp_grants.refresh(issued.access_token, client_id=CLIENT) is None
    clock.time += REFRESH_LIFE
    assert await storage.mcp_grants.refresh(token, client_id=CLIENT) is None
    assert present(await storage.mcp_grants.get(issued.grant_id)).revoked_at is None


async def test_fewer_scopes_are_of_the_access_token_alone(storage: RefreshTokenStorage) -> None:
    """A narrowed access token stays narrow; others follow the scopes of the grant at once."""
    issued = await grant(storage)
    narrow = present(
        await storage.mcp_grants.refresh(
            present(issued.refresh_token), client_id=CLIENT, scopes=["notes:read"]
        )
    )
    assert narrow.scopes == ("notes:read",)
    wider = ["files:read", "files:write", "notes:read"]
    assert await storage.mcp_grants.change_scopes(issued.grant_id, "alice", wider)
    assert not await storage.mcp_grants.change_scopes(issued.grant_id, "bob", [])
    found = present(await storage.mcp_tokens.find_valid(issued.access_token, ACCESS))
    assert list(found.scopes) == wider
    found = present(await storage.mcp_tokens.find_valid(narrow.access_token, ACCESS))
    assert found.scopes == ("notes:read",)


async def test_a_user_revokes_a_grant(storage: RefreshTokenStorage) -> None:
    """Its tokens end, those of others do not, and another user cannot do it."""
    mine, other = await grant(storage), await grant(storage, CODE + "2", "bob")
    assert not await storage.mcp_grants.revoke(mine.grant_id, BY_USER, user_id="bob")
    assert await storage.mcp_grants.revoke(mine.grant_id, BY_USER, user_id="alice")
    assert not await storage.mcp_grants.revoke(mine.grant_id, BY_USER)
    assert await storage.mcp_tokens.find(mine.access_token) is None
    assert await storage.mcp_tokens.find_valid(other.access_token, ACCESS)
    [listed] = await storage.mcp_grants.list_for_user("alice")
    assert (listed.grant_id, listed.revoked_why) == (mine.grant_id, BY_USER)
    assert await storage.mcp_grants.revoke_for_user("bob", BY_USER) == 1


async def test_the_last_use_is_written_once_a_minute(storage: RefreshTokenStorage) -> None:
    """A second use in the same minute changes nothing."""
    issued = await grant(storage)
    for at, stored in ((NOW, NOW), (NOW + 59, NOW), (NOW + 60, NOW + 60)):
        await storage.mcp_grants.touch({issued.grant_id: at})
        assert present(await storage.mcp_grants.get(issued.grant_id)).last_used_at == stored


async def test_what_is_over_is_swept(storage: RefreshTokenStorage, clock: Clock) -> None:
    """Expired tokens, then grants without tokens, then clients without grants are deleted."""
    await storage.mcp_clients.register(CLIENT, {"client_name": "One"})
    await storage.mcp_clients.register("unused", {"client_name": "Two"})
    issued = await grant(storage)
    clock.time += UNUSED
    assert await storage.mcp_clients.delete_expired() == 1
    assert await storage.mcp_tokens.delete_expired() == 1
    assert await storage.mcp_grants.delete_expired() == 0
    clock.time += REFRESH_LIFE + KEPT
    assert await storage.mcp_tokens.delete_expired() == 1
    assert await storage.mcp_grants.delete_expired() == 1
    assert await storage.mcp_grants.get(issued.grant_id) is None
    assert await storage.mcp_clients.delete_expired() == 0
    clock.time += IDLE
    assert await storage.mcp_clients.delete_expired() == 1


async def test_a_document_replaces_the_previous_one(storage: RefreshTokenStorage) -> None:
    """The metadata and its expiry are replaced; the last use is kept."""
    clients = storage.mcp_clients
    url = "https://client.example.com/oauth.json"
    for name in ("One", "Two"):
        await clients.store_document(url, {"client_name": name}, expires_at=NOW + 3600)
    client = present(await clients.get(url))
    assert (client.metadata, client.kind, client.expires_at) == (
        {"client_name": "Two"},
        "document",
        NOW + 3600,
    )
    assert await clients.get("https://other.example.com/") is None


async def test_a_refused_app_password_is_marked_once(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """A new password clears the mark, and an old reading marks the new one no more."""
    passwords = storage.app_passwords
    await passwords.store("alice", "pw-1", server="https://cloud.example.com", name="server")
    old = present(await passwords.get("alice"))
    assert (old.name, old.refused_at) == ("server", None)
    assert await passwords.refuse(old)
    assert not await passwords.refuse(old)
    assert present(await passwords.get("alice")).refused_at == NOW
    clock.time += 1
    await passwords.store("alice", "pw-2", server="https://cloud.example.com")
    assert not await passwords.refuse(old)
    await passwords.touch({"alice": NOW + 5})
    new = present(await passwords.get("alice"))
    assert (new.refused_at, new.last_used_at) == (None, NOW + 5)


def refresh_alone(place: str, token: str) -> tuple[str, str | None] | None:
    """Refresh in a process of its own; return both tokens."""

    async def run() -> tuple[str, str | None] | None:
        async with RefreshTokenStorage(place, encryption_key=KEY, clock=Clock()) as storage:
            issued = await storage.mcp_grants.refresh(token, client_id=CLIENT)
            return None if issued is None else (issued.access_token, issued.refresh_token)

    return asyncio.run(run())


def used(results: Iterable[tuple[str, str | None] | None]) -> list[tuple[str, str | None]]:
    """Return the results, each of which is there."""
    return [present(result) for result in results]


async def test_eight_processes_refresh_at_once_and_nobody_is_signed_out(
    storage: RefreshTokenStorage, place: str
) -> None:
    """Each gets a valid access token, and exactly one of them the new refresh token."""
    token = present((await grant(storage)).refresh_token)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(8, spawn) as processes:
        loop = asyncio.get_running_loop()
        results = used(
            await asyncio.gather(
                *(loop.run_in_executor(processes, refresh_alone, place, token) for _ in range(8))
            )
        )
    assert sum(refresh is not None for _, refresh in results) == 1
    assert len({access for access, _ in results}) == 8
    for access, _ in results:
        assert await storage.mcp_tokens.find_valid(access, ACCESS)
