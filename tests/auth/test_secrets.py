"""App passwords, the OAuth client and login flows: encrypted secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.app_passwords import AppPassword
from nextcloud_mcp_server.auth.login_flows import LoginFlow
from nextcloud_mcp_server.auth.oauth_clients import OAuthClient
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.auth.helpers import NOW, Clock, events, opened, tamper
from tests.cli.places import rows
from tests.support.errors import refuses

REGISTRATION: dict[str, Any] = {
    "redirect_uris": ["http://localhost/cb", "http://localhost/ü"],
    "client_id_issued_at": NOW - 100,
    "client_secret_expires_at": NOW + 100,
    "registration_access_token": "rat-1",
    "registration_client_uri": "https://nc.example.org/r",
}


async def test_an_app_password_comes_back(storage: RefreshTokenStorage, clock: Clock) -> None:
    """Every column is written and read, and storing again keeps created_at only."""
    passwords = storage.app_passwords
    server = "https://nc.example.org"
    await passwords.store(
        "alice", "AAAAA-BBBBB", scopes=["notes.read"], username="Alice L.", server=server
    )
    assert await passwords.get("alice") == AppPassword(
        "alice", "AAAAA-BBBBB", ("notes.read",), "Alice L.", server, NOW, NOW
    )
    clock.time += 10
    await passwords.store("alice", "CCCCC")
    assert await passwords.get("alice") == AppPassword(
        "alice", "CCCCC", None, None, None, NOW, NOW + 10
    )


async def test_scopes_of_an_app_password_may_be_unknown_or_none(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """NULL is "never recorded" and [] is "none granted": here they differ."""
    await storage.app_passwords.store("alice", "a")
    await storage.app_passwords.store("bob", "b", scopes=[])
    alice, bob = [await storage.app_passwords.get(user) for user in ("alice", "bob")]
    assert alice is not None
    assert bob is not None
    assert (alice.scopes, bob.scopes) == (None, ())
    assert rows(path, "SELECT scopes FROM app_passwords ORDER BY user_id") == [(None,), ("[]",)]


async def test_app_passwords_are_listed_and_deleted(storage: RefreshTokenStorage) -> None:
    """A deletion returns whether there was a password, and every change is recorded."""
    passwords = storage.app_passwords
    await passwords.store("zoe", "z")
    await passwords.store("Adam", "a", username="adam@example.org")
    assert await passwords.list_user_ids() == ["Adam", "zoe"]
    assert await passwords.delete("zoe") is True
    assert await passwords.delete("zoe") is False
    assert await passwords.get("zoe") is None
    assert await events(storage) == [
        ("store_app_password", "zoe"),
        ("store_app_password_with_scopes", "Adam"),
        ("delete_app_password", "zoe"),
    ]
    assert {entry.auth_method for entry in await storage.audit.list()} == {"app_password"}


async def test_the_oauth_client_comes_back(storage: RefreshTokenStorage, clock: Clock) -> None:
    """Every column is written and read, and a new registration replaces the old one."""
    clients = storage.oauth_clients
    assert await clients.get() is None
    await clients.store("client-1", "s3cr3t", **REGISTRATION)
    client = await clients.get()
    assert client == OAuthClient(
        client_id="client-1",
        client_secret="s3cr3t",
        client_id_issued_at=NOW - 100,
        client_secret_expires_at=NOW + 100,
        redirect_uris=("http://localhost/cb", "http://localhost/ü"),
        registration_access_token="rat-1",
        registration_client_uri="https://nc.example.org/r",
        created_at=NOW,
        updated_at=NOW,
    )
    assert not client.is_expired
    clock.time += 100
    assert client.is_expired
    await clients.store("client-2", "other", redirect_uris=[])
    client = await clients.get()
    assert client == OAuthClient("client-2", "other", NOW + 100, 0, (), None, None, NOW, NOW + 100)
    assert not client.is_expired, "0 means never (RFC 7591)"


async def test_the_oauth_client_is_row_1(storage: RefreshTokenStorage, path: Path) -> None:
    """The row has the id 1, encrypted secrets and a JSON array, as the releases write it."""
    await storage.oauth_clients.store("client-0", "x", redirect_uris=["http://x"])
    await storage.oauth_clients.store("client-1", "s3cr3t", **REGISTRATION)
    [(number, uris)] = rows(path, "SELECT id, redirect_uris FROM oauth_clients")
    assert (number, uris) == (1, '["http://localhost/cb", "http://localhost/\\u00fc"]')
    assert opened(path, "oauth_clients", "encrypted_client_secret") == ["s3cr3t"]
    assert opened(path, "oauth_clients", "encrypted_registration_access_token") == ["rat-1"]


async def test_the_oauth_client_is_deleted(storage: RefreshTokenStorage) -> None:
    """A deletion returns whether there was one; the entries name the system."""
    await storage.oauth_clients.store("client-1", "s3cr3t", redirect_uris=["http://x"])
    assert await storage.oauth_clients.delete() is True
    assert await storage.oauth_clients.delete() is False
    assert await storage.oauth_clients.get() is None
    assert await events(storage) == [
        ("store_oauth_client", "system"),
        ("delete_oauth_client", "system"),
    ]


async def test_a_login_flow_comes_back(storage: RefreshTokenStorage, clock: Clock) -> None:
    """Every column is written and read, and a new flow replaces the old one."""
    flows = storage.login_flows
    await flows.store(
        "alice", "poll-1", "https://x/poll", expires_at=NOW + 60, requested_scopes=["notes.read"]
    )
    flow = await flows.get("alice")
    assert flow == LoginFlow("alice", "poll-1", "https://x/poll", ("notes.read",), NOW, NOW + 60)
    assert not flow.is_expired
    clock.time = NOW + 60
    assert flow.is_expired
    await flows.store("alice", "poll-2", "https://y/poll", expires_at=NOW + 99, requested_scopes=[])
    assert await flows.get("alice") == LoginFlow(
        "alice", "poll-2", "https://y/poll", None, NOW + 60, NOW + 99
    )


async def test_login_flows_are_deleted(storage: RefreshTokenStorage) -> None:
    """One flow, or all expired ones, are deleted, and each deletion is recorded."""
    flows = storage.login_flows
    for user, expires_at in {"a": NOW - 1, "b": NOW, "c": NOW + 1, "d": NOW + 1}.items():
        await flows.store(user, "poll", "https://x/poll", expires_at=expires_at)
    assert await flows.delete("c") is True
    assert await flows.delete("c") is False
    assert await flows.delete_expired() == 2
    assert [user for user in "abcd" if await flows.get(user)] == ["d"]
    assert (await events(storage))[4:] == [
        ("delete_login_flow", "c"),
        ("delete_expired_login_flow", "a"),
        ("delete_expired_login_flow", "b"),
    ]


async def test_a_secret_that_cannot_be_decrypted_is_named(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """For every encrypted column the error names the table, the column and the row."""
    await storage.store_refresh_token("alice", "x")
    await storage.app_passwords.store("alice", "x")
    await storage.login_flows.store("alice", "x", "https://x", expires_at=NOW)
    await storage.oauth_clients.store("client-1", "s3cr3t", **REGISTRATION)
    row = "of user 'alice'"
    for table, column, place, read in (
        ("refresh_tokens", "encrypted_token", row, lambda: storage.get_refresh_token("alice")),
        ("app_passwords", "encrypted_password", row, lambda: storage.app_passwords.get("alice")),
        (
            "login_flow_sessions",
            "encrypted_poll_token",
            row,
            lambda: storage.login_flows.get("alice"),
        ),
        (
            "oauth_clients",
            "encrypted_registration_access_token",
            "of row 1",
            storage.oauth_clients.get,
        ),
        ("oauth_clients", "encrypted_client_secret", "of row 1", storage.oauth_clients.get),
    ):
        tamper(path, f"UPDATE {table} SET {column} = 'gAAAA'")
        with pytest.raises(
            TokenStorageError, match=f"^{table}.{column} {place} cannot be decrypted"
        ) as caught:
            await read()
        assert caught.value.code == "undecryptable"


async def test_bad_input_is_refused(storage: RefreshTokenStorage, path: Path) -> None:
    """An invalid value is refused before anything is written or recorded."""
    calls: list[Any] = [
        lambda: storage.app_passwords.store("a", ""),
        lambda: storage.app_passwords.store("a", "x", scopes="notes"),
        lambda: storage.app_passwords.store("a", "x", username="a\x00"),
        lambda: storage.app_passwords.store("a", "x", server=""),
        lambda: storage.oauth_clients.store("", "x", redirect_uris=[]),
        lambda: storage.oauth_clients.store("c", "", redirect_uris=[]),
        lambda: storage.oauth_clients.store("c", "x", redirect_uris="http://x"),
        lambda: storage.oauth_clients.store("c", "x", redirect_uris=[""]),
        lambda: storage.oauth_clients.store(
            "c", "x", redirect_uris=[], client_secret_expires_at=-1
        ),
        lambda: storage.oauth_clients.store(
            "c", "x", redirect_uris=[], registration_access_token=""
        ),
        lambda: storage.login_flows.store("a", "", "https://x", expires_at=NOW),
        lambda: storage.login_flows.store("a", "x", "", expires_at=NOW),
        lambda: storage.login_flows.store("a", "x", "https://x", expires_at=1.5),  # type: ignore[arg-type]
    ]
    for call in calls:
        with refuses("bad-input"):
            await call()
    for table in ("app_passwords", "oauth_clients", "login_flow_sessions", "audit_logs"):
        assert rows(path, f"SELECT count(*) FROM {table}") == [(0,)]
