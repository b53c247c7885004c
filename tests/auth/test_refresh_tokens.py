"""Refresh tokens and profiles through the storage."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.refresh_tokens import RefreshToken
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.auth.helpers import NOW, Clock, events, opened, tamper
from tests.cli.places import rows
from tests.support.contents import encrypted
from tests.support.errors import refuses
from tests.support.present import present

EVERYTHING: dict[str, Any] = {
    "expires_at": NOW + 60,
    "scopes": ["openid", "notes:read"],
    "flow_type": "flow2",
    "token_audience": "mcp-server",
    "provisioned_at": NOW - 5,
    "provisioning_client_id": "claude-desktop",
}


async def test_a_token_comes_back_with_every_column(storage: RefreshTokenStorage) -> None:
    """Every column is stored and read."""
    await storage.store_refresh_token("alice", "rt-1", **EVERYTHING)
    assert await storage.get_refresh_token("alice") == RefreshToken(
        user_id="alice",
        token="rt-1",
        expires_at=NOW + 60,
        scopes=("openid", "notes:read"),
        flow_type="flow2",
        token_audience="mcp-server",
        provisioned_at=NOW - 5,
        provisioning_client_id="claude-desktop",
        created_at=NOW,
        updated_at=NOW,
    )


async def test_values_are_written_as_releases_write_them(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """Every column has the format that the releases write, but for the two secrets."""
    await storage.store_refresh_token("alice", "rt-1", **EVERYTHING)
    await storage.store_user_profile("alice", {"sub": "alice", "name": "Ä"})
    ((token, profile, *plain),) = rows(
        path,
        "SELECT encrypted_token, user_profile, expires_at, created_at, updated_at, flow_type, "
        "token_audience, provisioned_at, provisioning_client_id, scopes, profile_cached_at "
        "FROM refresh_tokens",
    )
    # A BLOB and a TEXT, as the columns of the releases.
    assert isinstance(token, bytes)
    assert isinstance(profile, str)
    assert opened(path, "refresh_tokens", "encrypted_token") == ["rt-1"]
    assert opened(path, "refresh_tokens", "user_profile") == ['{"sub": "alice", "name": "\\u00c4"}']
    assert plain == [
        NOW + 60,
        NOW,
        NOW,
        "flow2",
        "mcp-server",
        NOW - 5,
        "claude-desktop",
        '["openid", "notes:read"]',
        NOW,
    ]


async def test_no_scopes_are_stored_as_null(storage: RefreshTokenStorage, path: Path) -> None:
    """An empty list of scopes is NULL in this table."""
    await storage.store_refresh_token("alice", "rt-1", scopes=[])
    assert rows(path, "SELECT scopes FROM refresh_tokens") == [(None,)]


async def test_storing_again_keeps_creation_and_profile(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """Storing again keeps created_at and the profile; the rest is replaced, or its default."""
    await storage.store_refresh_token("alice", "rt-1", **EVERYTHING)
    await storage.store_user_profile("alice", {"sub": "alice"})
    clock.time += 10
    await storage.store_refresh_token("alice", "rt-2")
    token = await storage.get_refresh_token("alice")
    assert token == RefreshToken(
        "alice", "rt-2", None, None, "hybrid", "nextcloud", None, None, NOW, NOW + 10
    )
    assert not token.is_expired
    assert await storage.get_user_profile("alice") == {"sub": "alice"}


async def test_flow2_is_provisioned_now(storage: RefreshTokenStorage) -> None:
    """For a flow2 token the default of provisioned_at is now."""
    await storage.store_refresh_token("alice", "rt-1", flow_type="flow2")
    await storage.store_refresh_token("bob", "rt-2", flow_type="flow1")
    alice, bob = [await storage.get_refresh_token(user) for user in ("alice", "bob")]
    assert alice is not None
    assert bob is not None
    assert (alice.provisioned_at, bob.provisioned_at) == (NOW, None)


async def test_an_expired_token_is_returned(storage: RefreshTokenStorage, clock: Clock) -> None:
    """Reading never deletes an expired token, because a clock may be wrong."""
    await storage.store_refresh_token("alice", "rt-1", expires_at=NOW + 60)
    token = present(await storage.get_refresh_token("alice"))
    assert not token.is_expired
    clock.time = NOW + 59.9
    assert not token.is_expired
    clock.time = NOW + 60
    assert token.is_expired
    again = present(await storage.get_refresh_token("alice"))
    assert again.is_expired
    clock.time = NOW
    assert not again.is_expired


async def test_a_token_of_second_0_is_expired(storage: RefreshTokenStorage) -> None:
    """An expiry of 0 is in the past; it does not mean "never"."""
    await storage.store_refresh_token("alice", "rt-1", expires_at=0)
    token = present(await storage.get_refresh_token("alice"))
    assert token.is_expired


async def test_user_ids_are_compared_exactly(storage: RefreshTokenStorage) -> None:
    """Case and Unicode form matter, and quotes have no special meaning."""
    users = ["Carol", "carol", "élodie", "e\u0301lodie", "o'brien\"; DROP TABLE x;--", "用户-🙂"]
    for user in users:
        await storage.store_refresh_token(user, f"rt-{user}")
    assert await storage.list_user_ids() == sorted(users)
    for user in users:
        token = present(await storage.get_refresh_token(user))
        assert token.token == f"rt-{user}"


async def test_deleting(storage: RefreshTokenStorage) -> None:
    """A deletion returns whether there was a token, and deletes the profile too."""
    await storage.store_refresh_token("alice", "rt-1")
    await storage.store_user_profile("alice", {"sub": "alice"})
    assert await storage.delete_refresh_token("alice") is True
    assert await storage.delete_refresh_token("alice") is False
    assert await storage.get_refresh_token("alice") is None
    assert await storage.get_user_profile("alice") is None


async def test_deleting_expired_tokens(storage: RefreshTokenStorage) -> None:
    """Only expired tokens are deleted, and each deletion is recorded."""
    for user, expires_at in {"a": 0, "b": NOW, "c": NOW + 1, "d": None}.items():
        await storage.store_refresh_token(user, "rt", expires_at=expires_at)
    assert await storage.delete_expired_refresh_tokens() == 2
    assert await storage.delete_expired_refresh_tokens() == 0
    assert await storage.list_user_ids() == ["c", "d"]
    assert (await events(storage))[4:] == [
        ("delete_expired_refresh_token", "a"),
        ("delete_expired_refresh_token", "b"),
    ]


async def test_a_profile_needs_a_token(storage: RefreshTokenStorage, clock: Clock) -> None:
    """Without a token no profile is stored, and nothing is recorded."""
    assert await storage.store_user_profile("alice", {"a": 1}) is False
    assert await events(storage) == []
    await storage.store_refresh_token("alice", "rt-1")
    assert await storage.get_user_profile("alice") is None
    clock.time += 5
    assert await storage.store_user_profile("alice", {"a": 1}) is True
    assert await storage.store_user_profile("alice", {"b": [2]}) is True
    profile = present(await storage.profiles.get("alice"))
    assert (profile.user_id, profile.profile, profile.cached_at) == ("alice", {"b": [2]}, NOW + 5)
    assert (await events(storage))[1:] == [("store_user_profile", "alice")] * 2


async def test_null_flow_columns_read_as_their_defaults(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """In an old row these columns may be NULL, which means their defaults."""
    tamper(
        path,
        "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at, flow_type, "
        "token_audience) VALUES ('alice', ?, 1, 1, NULL, NULL)",
        [encrypted("rt-1")],
    )
    token = present(await storage.get_refresh_token("alice"))
    assert (token.flow_type, token.token_audience) == ("hybrid", "nextcloud")


async def test_a_row_without_a_key_is_skipped(storage: RefreshTokenStorage, path: Path) -> None:
    """A text key of an early release may be NULL: such a row is not listed and not deleted."""
    columns = "user_id, encrypted_token, expires_at, created_at, updated_at"
    tamper(path, "ALTER TABLE refresh_tokens RENAME TO strict")
    tamper(path, "CREATE TABLE refresh_tokens AS SELECT * FROM strict")
    tamper(path, f"INSERT INTO refresh_tokens ({columns}) VALUES (NULL, x'00', 0, 0, 0)")
    assert await storage.list_user_ids() == []
    assert await storage.delete_expired_refresh_tokens() == 0
    assert rows(path, "SELECT count(*) FROM refresh_tokens") == [(1,)]


@pytest.mark.parametrize(("column", "value"), [("scopes", "notes.read"), ("expires_at", "soon")])
async def test_a_broken_row_raises(
    storage: RefreshTokenStorage, path: Path, column: str, value: object
) -> None:
    """A value in another format is an error with its place."""
    await storage.store_refresh_token("alice", "rt-1")
    tamper(path, f"UPDATE refresh_tokens SET {column} = ?", [value])
    with refuses("unreadable", match=f"^refresh_tokens.{column} of user 'alice'"):
        await storage.get_refresh_token("alice")


async def test_a_broken_profile_raises(storage: RefreshTokenStorage, path: Path) -> None:
    """A profile that is not a JSON object is unreadable; the token beside it is not."""
    tamper(
        path,
        "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at, "
        "user_profile) VALUES ('alice', ?, 1, 1, 's3cr3t {')",
        [encrypted("rt-1")],
    )
    with refuses("unreadable", match=r"refresh_tokens\.user_profile") as caught:
        await storage.get_user_profile("alice")
    assert "s3cr3t" not in str(caught.value)
    assert await storage.get_refresh_token("alice") is not None


async def test_scopes_that_were_read_are_stored_again(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """Old releases stored scopes that are refused today; a refresh must not lose the grant."""
    old = ["a b", "", "c\u0000", 'c"d', "\ud800"]
    await storage.store_refresh_token("alice", "rt-1")
    await storage.app_passwords.store("alice", "ap-1")
    await storage.login_flows.store("alice", "pt-1", "https://x/poll", expires_at=9)
    for table, column in (
        ("refresh_tokens", "scopes"),
        ("app_passwords", "scopes"),
        ("login_flow_sessions", "requested_scopes"),
    ):
        tamper(path, f"UPDATE {table} SET {column} = ?", [json.dumps(old)])
    token = await storage.get_refresh_token("alice")
    password = await storage.app_passwords.get("alice")
    flow = await storage.login_flows.get("alice")
    assert token and password and flow  # noqa: PT018 - for the type checker
    await storage.store_refresh_token("alice", "rt-2", scopes=token.scopes)
    await storage.app_passwords.store("alice", "ap-2", scopes=password.scopes)
    await storage.login_flows.store(
        "alice", "pt-2", "https://x/poll", expires_at=9, requested_scopes=flow.requested_scopes
    )
    again = present(await storage.get_refresh_token("alice"))
    assert (again.token, again.scopes) == ("rt-2", tuple(old))
    assert await storage.app_passwords.get("alice") == replace(password, password="ap-2")
    assert await storage.login_flows.get("alice") == replace(flow, poll_token="pt-2")
    # Where scopes are separated by spaces, these would become others.
    with refuses("bad-input"):
        await storage.oauth_sessions.create(
            "session-0123456789abcdef", "https://x/", expires_at=9, requested_scopes=token.scopes
        )


BAD: list[tuple[str, Any]] = [
    ("user_id", "a\nb"),
    ("refresh_token", None),
    ("expires_at", -1),
    ("scopes", "openid"),
    ("scopes", ["a b"]),
    ("flow_type", "flow3"),
    ("token_audience", ""),
    ("provisioned_at", 1.5),
    ("provisioning_client_id", ""),
]


@pytest.mark.parametrize(("name", "value"), BAD)
async def test_bad_input_is_refused(storage: RefreshTokenStorage, name: str, value: Any) -> None:
    """An invalid value is refused before anything is written or recorded."""
    arguments = {"user_id": "alice", "refresh_token": "rt-1", name: value}
    with refuses("bad-input"):
        await storage.store_refresh_token(**arguments)
    assert await storage.list_user_ids() == []
    assert await events(storage) == []


async def test_readers_check_the_user_id(storage: RefreshTokenStorage) -> None:
    """Methods that only read check the user id too."""
    for call in (
        storage.get_refresh_token,
        storage.delete_refresh_token,
        storage.get_user_profile,
        storage.app_passwords.get,
        storage.app_passwords.delete,
        storage.login_flows.get,
        storage.login_flows.delete,
        storage.browser_sessions.delete_for_user,
        storage.browser_sessions.list_for_user,
        storage.audit.list,
    ):
        with refuses("bad-input"):
            await call("a\x00b")
