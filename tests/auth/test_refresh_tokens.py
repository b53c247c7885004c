"""Refresh tokens and profiles through the storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.refresh_tokens import RefreshToken
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.auth.helpers import KEY, KEYRING, NOW, OTHER_KEY, Clock, events, rows, tamper

EVERYTHING: dict[str, Any] = {
    "expires_at": NOW + 60,
    "scopes": ["openid", "notes:read"],
    "flow_type": "flow2",
    "token_audience": "mcp-server",
    "provisioned_at": NOW - 5,
    "provisioning_client_id": "claude-desktop",
}


async def test_a_token_comes_back_with_every_column(storage: RefreshTokenStorage) -> None:
    """What was stored is what is read, times and all."""
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


async def test_defaults(storage: RefreshTokenStorage) -> None:
    """A token alone is a hybrid flow's, for Nextcloud, and never expires."""
    await storage.store_refresh_token("alice", "rt-1")
    token = await storage.get_refresh_token("alice")
    assert token == RefreshToken(
        "alice", "rt-1", None, None, "hybrid", "nextcloud", None, None, NOW, NOW
    )
    assert not token.is_expired


async def test_values_are_written_as_releases_write_them(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """A released version finds every column in the form that it writes itself."""
    await storage.store_refresh_token("alice", "rt-1", **EVERYTHING)
    await storage.store_user_profile("alice", {"sub": "alice", "name": "Ä"})
    ((sealed, *plain),) = rows(
        path,
        "SELECT encrypted_token, expires_at, created_at, updated_at, flow_type, token_audience, "
        "provisioned_at, provisioning_client_id, scopes, user_profile, profile_cached_at "
        "FROM refresh_tokens",
    )
    assert isinstance(sealed, bytes)
    assert KEYRING.decrypt(sealed) == "rt-1"
    assert plain == [
        NOW + 60,
        NOW,
        NOW,
        "flow2",
        "mcp-server",
        NOW - 5,
        "claude-desktop",
        '["openid", "notes:read"]',
        '{"sub": "alice", "name": "\\u00c4"}',
        NOW,
    ]


async def test_no_scopes_are_kept_as_null(storage: RefreshTokenStorage, path: Path) -> None:
    """An empty list of scopes is NULL in this table."""
    await storage.store_refresh_token("alice", "rt-1", scopes=[])
    assert rows(path, "SELECT scopes FROM refresh_tokens") == [(None,)]


async def test_storing_again_keeps_creation_and_profile(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """Storing again keeps created_at and the profile, and replaces all the rest."""
    await storage.store_refresh_token("alice", "rt-1", **EVERYTHING)
    await storage.store_user_profile("alice", {"sub": "alice"})
    clock.time += 10
    await storage.store_refresh_token("alice", "rt-2")
    assert await storage.get_refresh_token("alice") == RefreshToken(
        "alice", "rt-2", None, None, "hybrid", "nextcloud", None, None, NOW, NOW + 10
    )
    assert await storage.get_user_profile("alice") == {"sub": "alice"}


async def test_flow2_is_provisioned_now(storage: RefreshTokenStorage) -> None:
    """A flow2 token says when it was provisioned, even where nobody said it; others do not."""
    await storage.store_refresh_token("alice", "rt-1", flow_type="flow2")
    await storage.store_refresh_token("bob", "rt-2", flow_type="flow1")
    alice, bob = [await storage.get_refresh_token(user) for user in ("alice", "bob")]
    assert alice is not None
    assert bob is not None
    assert (alice.provisioned_at, bob.provisioned_at) == (NOW, None)


async def test_an_expired_token_is_returned(storage: RefreshTokenStorage, clock: Clock) -> None:
    """Reading never deletes: expiry is a word about the token, and a clock may be wrong."""
    await storage.store_refresh_token("alice", "rt-1", expires_at=NOW + 60)
    token = await storage.get_refresh_token("alice")
    assert token is not None
    assert not token.is_expired
    clock.time = NOW + 59.9
    assert not token.is_expired
    clock.time = NOW + 60
    assert token.is_expired
    again = await storage.get_refresh_token("alice")
    assert again is not None
    assert again.is_expired
    clock.time = NOW
    assert not again.is_expired


async def test_a_token_of_second_0_is_expired(storage: RefreshTokenStorage) -> None:
    """0 is a time like any other, long ago, and not "never"."""
    await storage.store_refresh_token("alice", "rt-1", expires_at=0)
    token = await storage.get_refresh_token("alice")
    assert token is not None
    assert token.is_expired


async def test_absence_is_none(storage: RefreshTokenStorage) -> None:
    """Nobody's token and nobody's profile are None."""
    assert await storage.get_refresh_token("nobody") is None
    assert await storage.get_user_profile("nobody") is None


async def test_users_are_told_apart_to_the_letter(storage: RefreshTokenStorage) -> None:
    """Case and Unicode form are part of an id, and quotes are only letters."""
    users = ["Carol", "carol", "élodie", "e\u0301lodie", "o'brien\"; DROP TABLE x;--", "用户-🙂"]
    for user in users:
        await storage.store_refresh_token(user, f"rt-{user}")
    assert await storage.list_user_ids() == sorted(users)
    for user in users:
        token = await storage.get_refresh_token(user)
        assert token is not None
        assert token.token == f"rt-{user}"


async def test_deleting(storage: RefreshTokenStorage) -> None:
    """A deletion says whether there was something, and takes the profile along."""
    await storage.store_refresh_token("alice", "rt-1")
    await storage.store_user_profile("alice", {"sub": "alice"})
    assert await storage.delete_refresh_token("alice") is True
    assert await storage.delete_refresh_token("alice") is False
    assert await storage.get_refresh_token("alice") is None
    assert await storage.get_user_profile("alice") is None


async def test_deleting_expired_tokens(storage: RefreshTokenStorage) -> None:
    """Only those whose time is over go, and each is recorded."""
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
    """A profile lives beside the token: without one, nothing is kept and nothing recorded."""
    assert await storage.store_user_profile("alice", {"a": 1}) is False
    assert await events(storage) == []
    await storage.store_refresh_token("alice", "rt-1")
    assert await storage.get_user_profile("alice") is None
    clock.time += 5
    assert await storage.store_user_profile("alice", {"a": 1}) is True
    assert await storage.store_user_profile("alice", {"b": [2]}) is True
    profile = await storage.profiles.get("alice")
    assert profile is not None
    assert (profile.user_id, profile.profile, profile.cached_at) == ("alice", {"b": [2]}, NOW + 5)
    assert (await events(storage))[1:] == [("store_user_profile", "alice")] * 2


async def test_a_secret_of_another_key_raises(
    storage: RefreshTokenStorage, path: Path, clock: Clock
) -> None:
    """Not "never logged in": what cannot be opened raises and names its place."""
    await storage.store_refresh_token("alice", "rt-1")
    await storage.store_refresh_token("bob", "rt-2")
    tamper(path, "UPDATE refresh_tokens SET encrypted_token = x'6741' WHERE user_id = 'alice'")
    with pytest.raises(TokenStorageError) as caught:
        await storage.get_refresh_token("alice")
    assert caught.value.code == "undecryptable"
    assert caught.value.message == (
        "refresh_tokens.encrypted_token of user 'alice' "
        "cannot be decrypted with any of the given keys."
    )
    assert await storage.get_refresh_token("bob") is not None


async def test_a_second_key_opens_what_it_sealed(path: Path) -> None:
    """Several keys: the newest seals, and what an older one sealed is read as before."""
    async with RefreshTokenStorage(path, encryption_key=OTHER_KEY) as old:
        await old.store_refresh_token("alice", "rt-1")
    keys = [KEY, OTHER_KEY]
    async with RefreshTokenStorage(path, encryption_key=keys) as both:
        token = await both.get_refresh_token("alice")
        assert token is not None
        assert token.token == "rt-1"
        await both.store_refresh_token("bob", "rt-2")
    ((sealed,),) = rows(path, "SELECT encrypted_token FROM refresh_tokens WHERE user_id = 'bob'")
    assert KEYRING.can_decrypt(sealed)


async def test_a_token_kept_as_text_is_read(storage: RefreshTokenStorage, path: Path) -> None:
    """A restored dump may hold the ciphertext as TEXT."""
    await storage.store_refresh_token("alice", "rt-1")
    tamper(path, "UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS TEXT)")
    token = await storage.get_refresh_token("alice")
    assert token is not None
    assert token.token == "rt-1"


async def test_null_flow_columns_read_as_their_defaults(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """Columns added to an old row hold their defaults, or NULL, which means the same."""
    await storage.store_refresh_token("alice", "rt-1")
    tamper(path, "UPDATE refresh_tokens SET flow_type = NULL, token_audience = NULL")
    token = await storage.get_refresh_token("alice")
    assert token is not None
    assert (token.flow_type, token.token_audience) == ("hybrid", "nextcloud")


async def test_a_row_without_a_key_is_nobodys(storage: RefreshTokenStorage, path: Path) -> None:
    """A text key of an early release's table may be NULL: such a row is skipped and kept."""
    columns = "user_id, encrypted_token, expires_at, created_at, updated_at"
    tamper(path, "ALTER TABLE refresh_tokens RENAME TO strict")
    tamper(path, "CREATE TABLE refresh_tokens AS SELECT * FROM strict")
    tamper(path, f"INSERT INTO refresh_tokens ({columns}) VALUES (NULL, x'00', 0, 0, 0)")
    assert await storage.list_user_ids() == []
    assert await storage.delete_expired_refresh_tokens() == 0
    assert rows(path, "SELECT count(*) FROM refresh_tokens") == [(1,)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("scopes", "notes.read"),
        ("scopes", '{"a": 1}'),
        ("scopes", "[1]"),
        ("expires_at", "soon"),
        ("expires_at", 1.5),
    ],
)
async def test_a_broken_row_raises(
    storage: RefreshTokenStorage, path: Path, column: str, value: object
) -> None:
    """What no release wrote is unreadable, names its place and is not taken for absence."""
    await storage.store_refresh_token("alice", "rt-1")
    tamper(path, f"UPDATE refresh_tokens SET {column} = ?", [value])
    with pytest.raises(TokenStorageError, match=f"^refresh_tokens.{column} of user 'alice'") as e:
        await storage.get_refresh_token("alice")
    assert e.value.code == "unreadable"


async def test_a_broken_profile_raises(storage: RefreshTokenStorage, path: Path) -> None:
    """A profile that is not a JSON object is unreadable; the token beside it is not."""
    await storage.store_refresh_token("alice", "rt-1")
    tamper(path, "UPDATE refresh_tokens SET user_profile = 's3cr3t {'")
    with pytest.raises(TokenStorageError, match=r"refresh_tokens\.user_profile") as caught:
        await storage.get_user_profile("alice")
    assert caught.value.code == "unreadable"
    assert "s3cr3t" not in str(caught.value)
    assert await storage.get_refresh_token("alice") is not None


BAD: list[tuple[str, Any]] = [
    ("user_id", ""),
    ("user_id", "x" * 256),
    ("user_id", "a\nb"),
    ("user_id", "\ud800"),
    ("refresh_token", ""),
    ("refresh_token", None),
    ("refresh_token", b"rt"),
    ("expires_at", float("nan")),
    ("expires_at", -1),
    ("expires_at", 2**63),
    ("expires_at", True),
    ("scopes", "openid"),
    ("scopes", ["a b"]),
    ("flow_type", "flow3"),
    ("token_audience", ""),
    ("provisioned_at", 1.5),
    ("provisioning_client_id", ""),
]


@pytest.mark.parametrize(("name", "value"), BAD)
async def test_bad_input_is_refused_at_the_door(
    storage: RefreshTokenStorage, name: str, value: Any
) -> None:
    """Refused before anything is written or recorded."""
    arguments = {"user_id": "alice", "refresh_token": "rt-1", name: value}
    with pytest.raises(TokenStorageError) as caught:
        await storage.store_refresh_token(**arguments)
    assert caught.value.code == "bad-input"
    assert await storage.list_user_ids() == []
    assert await events(storage) == []


async def test_readers_check_the_user_id_too(storage: RefreshTokenStorage) -> None:
    """No method hands a database what it cannot hold."""
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
        with pytest.raises(TokenStorageError) as caught:
            await call("a\x00b")
        assert caught.value.code == "bad-input"
