"""How many clients are stored, and what of them is in the audit log, on both engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextcloud_mcp_server.auth import mcp_clients
from nextcloud_mcp_server.auth.mcp_clients import IDLE, SAFE, UNUSED
from nextcloud_mcp_server.auth.mcp_grants import BY_USER, KEPT
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.auth.helpers import NOW, Clock, events
from tests.auth.test_mcp_grants import CLIENT, SESSION, authorize, grant

if TYPE_CHECKING:
    import pytest

BROWSER = "browser-0123456789-abcdef"


async def test_a_new_client_takes_the_place_of_the_oldest_unused_one(
    storage: RefreshTokenStorage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were used, and those of the last hour, stay; a new one is refused instead."""
    monkeypatch.setattr(mcp_clients, "MOST_UNUSED", 3)
    clients = storage.mcp_clients
    assert await clients.register(CLIENT, {})
    await grant(storage)
    for name in ("old", "within the hour", "young"):
        assert await clients.register(name, {})
        clock.time += SAFE / 2
    assert await clients.get("old") is not None
    assert await clients.register("new", {})
    assert await clients.get("old") is None
    clock.time -= 1
    assert not await clients.register("too many", {})
    assert not await clients.store_document("https://a.example/x", {}, expires_at=NOW)
    assert await clients.get("too many") is None
    # The document of a known client is no new client.
    clock.time += SAFE
    assert await clients.store_document("https://a.example/x", {}, expires_at=NOW)
    clock.time -= SAFE
    assert await clients.store_document("https://a.example/x", {"a": 1}, expires_at=NOW)
    assert await clients.get(CLIENT) is not None
    assert await clients.get("young") is not None


async def test_clients_that_nobody_has_used_are_not_in_the_audit_log(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """What anybody can do without a sign-in leaves no entry, so the log does not grow with it."""
    clients = storage.mcp_clients
    for number in range(3):
        await clients.register(f"c{number}", {})
        await clients.store_document(f"https://a.example/{number}", {}, expires_at=NOW)
        await clients.store_document(f"https://a.example/{number}", {"a": 1}, expires_at=NOW)
    clock.time += UNUSED
    assert await clients.delete_expired() == 6
    assert await events(storage) == []


async def test_a_used_client_is_in_the_audit_log(storage: RefreshTokenStorage) -> None:
    """A document of a client that somebody has used is recorded if it changed."""
    clients = storage.mcp_clients
    await clients.store_document(CLIENT, {}, expires_at=NOW)
    await grant(storage)
    before = await events(storage)
    await clients.store_document(CLIENT, {}, expires_at=NOW + 1)
    assert await events(storage) == before
    await clients.store_document(CLIENT, {"redirect_uris": ["https://b.example"]}, expires_at=NOW)
    assert await events(storage) == [*before, ("store_mcp_client", "system")]


async def test_a_used_client_is_kept_after_its_grant(
    storage: RefreshTokenStorage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New ones do not take its place for months; then it is deleted, which is recorded."""
    monkeypatch.setattr(mcp_clients, "MOST_UNUSED", 1)
    clients = storage.mcp_clients
    assert await clients.register(CLIENT, {})
    await grant(storage)
    [found] = await storage.mcp_grants.list_for_user("alice")
    await storage.mcp_grants.revoke(found.grant_id, BY_USER, user_id="alice")
    clock.time += KEPT + 1
    assert await storage.mcp_grants.delete_expired() == 1
    for name in ("one", "two"):
        assert await clients.register(name, {})
        clock.time += SAFE
    assert await clients.get("one") is None
    assert await clients.get(CLIENT) is not None
    clock.time += IDLE
    assert await clients.delete_expired() == 2
    assert (await events(storage))[-1] == ("delete_unused_mcp_client", "system")


async def test_a_session_that_no_browser_has_begun_is_in_the_audit_log(
    storage: RefreshTokenStorage,
) -> None:
    """Not everybody can begin one: each change of it has an entry, also without a user."""
    sessions = storage.oauth_sessions
    await sessions.create(SESSION, "x:y", expires_at=NOW + 9)
    assert await sessions.update(SESSION, poll_endpoint="https://c.example", poll_token="p" * 20)
    assert await sessions.delete(SESSION)
    assert [event for event, user in await events(storage) if user == "system"][-2:] == [
        "update_oauth_session",
        "delete_oauth_session",
    ]


async def test_a_sign_in_without_a_user_is_not_in_the_audit_log(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """It begins, gets its poll token and expires without an entry; one with a user has entries."""
    sessions = storage.oauth_sessions
    for number in range(3):
        name = f"{SESSION}-{number}"
        await sessions.create(name, "x:y", expires_at=NOW + 9, browser_id=BROWSER, state="s")
        assert await sessions.update(name, poll_endpoint="https://c.example", poll_token="p" * 20)
    assert await sessions.delete(f"{SESSION}-0")
    clock.time += 10
    assert await sessions.delete_expired() == 2
    assert await events(storage) == []
    await authorize(storage)
    assert await sessions.delete_for_user("alice") == 1
    assert await events(storage) == [
        ("update_oauth_session", "alice"),
        ("delete_oauth_session", "alice"),
    ]
