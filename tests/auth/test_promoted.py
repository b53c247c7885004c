"""The key that encrypts stands in the database, and may change while a store is open."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth import context
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.key import key_id
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute, rows
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses
from tests.support.keys import promote
from tests.support.present import present

OLD, NEW = Keyring([KEY, OTHER_KEY]).keys


def write_keys(file: Path, *keys: str) -> Path:
    """Write a key file, the newest key first."""
    file.touch(0o600)
    file.write_text("\n".join(keys))
    return file


def sealed_with(path: Path, user: str) -> str | None:
    """Return the id of the key of a user's token."""
    [(text,)] = rows(path, f"SELECT encrypted_token FROM refresh_tokens WHERE user_id = '{user}'")
    return key_id(text)


async def test_an_open_store_encrypts_with_the_promoted_key(path: Path) -> None:
    """Between two stores another key is promoted: the second one is encrypted with it."""
    async with RefreshTokenStorage(path, encryption_key=[KEY, OTHER_KEY]) as storage:
        await storage.store_refresh_token("alice", "one")
        assert sealed_with(path, "alice") == OLD.id
        promote(path, OTHER_KEY)
        await storage.store_refresh_token("bob", "two")
        assert sealed_with(path, "bob") == NEW.id
        for user, token in (("alice", "one"), ("bob", "two")):
            assert present(await storage.get_refresh_token(user)).token == token
        # One entry for each, none of the unit that was not kept.
        entries = await storage.audit.list()
        assert [entry.user_id for entry in entries] == ["bob", "alice"]
        assert [present(entry.mac).partition(":")[0] for entry in entries] == [NEW.id, OLD.id]


async def test_a_promoted_key_that_was_not_given_stops_writes(path: Path) -> None:
    """The store is refused with both fingerprints, and what is there can still be read."""
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "one")
        promote(path, OTHER_KEY)
        with refuses("wrong-key", NEW.fingerprint) as caught:
            await storage.store_refresh_token("bob", "two")
        assert OLD.fingerprint in str(caught.value)
        assert rows(path, "SELECT user_id FROM refresh_tokens") == [("alice",)]
        assert present(await storage.get_refresh_token("alice")).token == "one"


async def test_what_has_no_entry_is_encrypted_with_the_promoted_key(path: Path) -> None:
    """A sign-in that begins or goes on in a browser, which the audit log does not have."""
    name, browser = "session-0123456789abcdef", "browser-0123456789-abcdef"
    async with RefreshTokenStorage(path, encryption_key=[KEY, OTHER_KEY]) as storage:
        await storage.store_refresh_token("alice", "one")
        promote(path, OTHER_KEY)
        sessions = storage.oauth_sessions
        await sessions.create(name, "x:y", expires_at=4_000_000_000, browser_id=browser, state="s")
        promote(path, KEY)
        assert await sessions.update(name, poll_endpoint="https://c.example", poll_token="p" * 20)
    [texts] = rows(path, "SELECT encrypted_state, encrypted_poll_token FROM oauth_sessions")
    assert [key_id(text) for text in texts] == [NEW.id, OLD.id]


async def test_an_entry_alone_is_signed_with_the_promoted_key(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changed key file is read for a deletion, too, which encrypts nothing."""
    monkeypatch.setattr(context, "_PAUSE", 0.0)
    file = write_keys(tmp_path / "keyfile", KEY)
    async with RefreshTokenStorage(settings=Settings(path, key_file=file)) as storage:
        await storage.store_refresh_token("alice", "one")
        promote(path, OTHER_KEY)
        write_keys(file, OTHER_KEY, KEY)
        assert await storage.delete_refresh_token("alice")
        [entry, _] = await storage.audit.list()
        assert present(entry.mac).partition(":")[0] == NEW.id


async def test_older_given_keys_are_registered(path: Path) -> None:
    """The first secret registers them as former ones, so that what they have encrypted is read."""
    async with RefreshTokenStorage(path, encryption_key=[OTHER_KEY, KEY]) as storage:
        await storage.store_refresh_token("alice", "one")
    found = rows(path, "SELECT id, kind, state FROM keys ORDER BY state")
    assert found == [(OLD.id, "v2", "former"), (NEW.id, "v2", "primary")]


@pytest.mark.parametrize("first", ["read", "write"])
async def test_a_changed_key_file_is_read_once_more(
    first: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a text of an unknown key, and for a write: the file has got the key meanwhile."""
    monkeypatch.setattr(context, "_PAUSE", 0.0)
    file = write_keys(tmp_path / "keyfile", KEY)
    settings = Settings(path, key_file=file)
    async with AsyncExitStack() as stack:
        storage = await stack.enter_async_context(RefreshTokenStorage(settings=settings))
        await storage.store_refresh_token("alice", "one")
        promote(path, OTHER_KEY)
        both = RefreshTokenStorage(path, encryption_key=[OTHER_KEY, KEY])
        other = await stack.enter_async_context(both)
        await other.store_refresh_token("bob", "two")
        with refuses(
            "undecryptable", f"key {NEW.fingerprint} encrypts this database since it was promoted"
        ) as caught:
            await storage.get_refresh_token("bob")
        assert "Nothing is lost." in str(caught.value)
        assert "delete" not in caught.value.remedy
        with refuses("wrong-key"):
            await storage.store_refresh_token("carol", "three")
        write_keys(file, OTHER_KEY, KEY)
        if first == "read":
            assert present(await storage.get_refresh_token("bob")).token == "two"
        await storage.store_refresh_token("carol", "three")
        assert sealed_with(path, "carol") == NEW.id
        assert present(await storage.get_refresh_token("bob")).token == "two"
        assert present(await storage.get_refresh_token("alice")).token == "one"


async def test_the_key_file_is_read_at_most_once_in_a_second(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many texts of an unknown key do not read the file for each of them."""
    monkeypatch.setattr(context, "_PAUSE", 3600.0)
    file = write_keys(tmp_path / "keyfile", KEY)
    async with RefreshTokenStorage(settings=Settings(path, key_file=file)) as storage:
        await storage.store_refresh_token("alice", "one")
        promote(path, OTHER_KEY)
        async with RefreshTokenStorage(path, encryption_key=[OTHER_KEY, KEY]) as other:
            await other.store_refresh_token("bob", "two")
        with refuses("undecryptable"):
            await storage.get_refresh_token("bob")
        write_keys(file, OTHER_KEY, KEY)
        with refuses("undecryptable"):
            await storage.get_refresh_token("bob")


async def test_a_wrong_key_file_closes_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running store keeps the keys that it has, whatever the file has become."""
    monkeypatch.setattr(context, "_PAUSE", 0.0)
    file = write_keys(tmp_path / "keyfile", KEY)
    async with RefreshTokenStorage(settings=Settings(path, key_file=file)) as storage:
        for user in ("alice", "bob"):
            await storage.store_refresh_token(user, user)
        write_keys(file, OTHER_KEY)
        stray = NEW.seal(b"x", b"").decode()
        execute(
            path, f"UPDATE refresh_tokens SET encrypted_token = '{stray}' WHERE user_id = 'bob'"
        )
        with refuses("undecryptable"):
            await storage.get_refresh_token("bob")
        await storage.store_refresh_token("carol", "carol")
        for user in ("alice", "carol"):
            assert present(await storage.get_refresh_token(user)).token == user
