"""Opening and closing a store, and secrets that it never shows."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.lifespan import TokenStoreLifespan
from nextcloud_mcp_server.settings import Settings
from tests.auth.helpers import NOW, Clock, events, tamper
from tests.cli.places import rows
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses
from tests.support.present import present

#: How the session ids begin, which have at least 22 characters.
ID = "session-id-0123456789-"
SECRET = "s3cr3t-sentinel-of-22-characters"


async def test_a_store_creates_its_database(tmp_path: Path) -> None:
    """In an empty folder the start creates the database."""
    storage = RefreshTokenStorage(tmp_path / "new.db", encryption_key=KEY)
    assert storage.outcome is None
    async with storage as same:
        assert same is storage
        assert present(storage.outcome).state.value == "new"
        await storage.store_refresh_token("alice", "rt-1")
    async with RefreshTokenStorage(tmp_path / "new.db", encryption_key=KEY) as again:
        token = present(await again.get_refresh_token("alice"))
        assert token.token == "rt-1"
        assert present(again.outcome).state.value == "at-head"


async def test_a_database_is_named_by_path_url_or_settings(path: Path) -> None:
    """A path as text, an SQLAlchemy URL and settings all open the same file."""
    settings = Settings(path, keys=(KEY,))
    for storage in (
        RefreshTokenStorage(str(path), encryption_key=KEY.encode()),
        RefreshTokenStorage(f"sqlite+aiosqlite:///{path}", encryption_key=[KEY, OTHER_KEY]),
        RefreshTokenStorage(settings=settings),
        RefreshTokenStorage(path, settings=settings),
    ):
        async with storage:
            await storage.store_refresh_token("alice", "rt-1")
    assert rows(path, "SELECT count(*) FROM audit_logs") == [(4,)]


@pytest.mark.parametrize(
    ("database", "key", "code"),
    [(5, KEY, "bad-path"), (b"x.db", KEY, "bad-path"), ("x.db", 5, "malformed-key")],
)
async def test_a_wrong_type_is_refused_at_the_start(database: Any, key: Any, code: str) -> None:
    """A value of another type is an error with a code, when the store is opened."""
    storage = RefreshTokenStorage(database, encryption_key=key)
    with refuses(code):
        await storage.initialize()


async def test_initialize_opens_once(path: Path) -> None:
    """A second call, or concurrent calls, open one pool."""
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    await asyncio.gather(*(storage.initialize() for _ in range(8)))
    first = storage.outcome
    await storage.initialize()
    assert storage.outcome is first
    await storage.close()


async def test_a_failed_start_leaves_the_store_closed(tmp_path: Path) -> None:
    """A start that fails can be repeated with the same store."""
    path = tmp_path / "tokens.db"
    path.write_text("not a database, but long enough to be read " * 20)
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    with refuses("not-a-database"):
        await storage.initialize()
    with refuses("not-open"):
        await storage.list_user_ids()
    path.unlink()
    async with storage:
        assert await storage.list_user_ids() == []


async def test_a_closed_store_refuses(path: Path) -> None:
    """Before it is opened and after it is closed, every method raises not-open."""
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    await is_refused(storage)
    await storage.initialize()
    await storage.close()
    await is_refused(storage)
    await storage.close()
    await storage.initialize()
    assert await storage.list_user_ids() == []
    await storage.close()


async def is_refused(storage: RefreshTokenStorage) -> None:
    """Check that the methods of the store and of its concerns raise not-open."""
    calls: list[Any] = [
        lambda: storage.store_refresh_token("a", "rt"),
        lambda: storage.get_refresh_token("a"),
        lambda: storage.delete_refresh_token("a"),
        storage.list_user_ids,
        storage.delete_expired_refresh_tokens,
        lambda: storage.store_user_profile("a", {}),
        lambda: storage.get_user_profile("a"),
        lambda: storage.app_passwords.store("a", "p"),
        lambda: storage.app_passwords.get("a"),
        storage.oauth_clients.get,
        storage.oauth_sessions.delete_expired,
        lambda: storage.login_flows.get("a"),
        lambda: storage.browser_sessions.get_user_id("a"),
        storage.audit.list,
    ]
    for call in calls:
        with refuses("not-open"):
            await call()


async def test_a_change_and_its_entry_are_one(storage: RefreshTokenStorage, path: Path) -> None:
    """If the entry in the audit log cannot be written, no change is kept."""
    await storage.store_refresh_token("alice", "rt-1", expires_at=0)
    await storage.app_passwords.store("alice", "x")
    await storage.oauth_clients.store("c", "x", redirect_uris=[])
    await storage.oauth_sessions.create(ID + "s", "http://x", expires_at=0)
    await storage.login_flows.store("alice", "x", "https://x", expires_at=0)
    await storage.browser_sessions.create(ID + "b", "alice", expires_at=0)
    tamper(
        path, "CREATE TRIGGER full BEFORE INSERT ON audit_logs BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    before = everything(path)
    calls: list[Any] = [
        lambda: storage.store_refresh_token("alice", "rt-2"),
        lambda: storage.store_refresh_token("bob", "rt-2"),
        lambda: storage.delete_refresh_token("alice"),
        storage.delete_expired_refresh_tokens,
        lambda: storage.store_user_profile("alice", {}),
        lambda: storage.app_passwords.store("alice", "y"),
        lambda: storage.app_passwords.delete("alice"),
        lambda: storage.oauth_clients.store("d", "y", redirect_uris=[]),
        storage.oauth_clients.delete,
        lambda: storage.oauth_sessions.create(ID + "t", "http://x", expires_at=0),
        lambda: storage.oauth_sessions.update(ID + "s", user_id="alice"),
        lambda: storage.oauth_sessions.delete(ID + "s"),
        storage.oauth_sessions.delete_expired,
        lambda: storage.login_flows.store("alice", "y", "https://x", expires_at=0),
        lambda: storage.login_flows.delete("alice"),
        storage.login_flows.delete_expired,
        lambda: storage.browser_sessions.create(ID + "c", "alice", expires_at=0),
        lambda: storage.browser_sessions.delete(ID + "b"),
        lambda: storage.browser_sessions.delete_for_user("alice"),
        storage.browser_sessions.delete_expired,
    ]
    for call in calls:
        with pytest.raises(TokenStorageError):
            await call()
    assert everything(path) == before


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table."""
    names = rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name: rows(path, f"SELECT * FROM {name}") for (name,) in names}


async def test_deleting_what_is_not_there_records_nothing(storage: RefreshTokenStorage) -> None:
    """A deletion that deletes nothing writes no entry."""
    assert not await storage.delete_refresh_token("alice")
    assert not await storage.app_passwords.delete("alice")
    assert not await storage.oauth_clients.delete()
    assert not await storage.oauth_sessions.delete("s")
    assert not await storage.login_flows.delete("alice")
    assert not await storage.browser_sessions.delete("b")
    assert await storage.delete_expired_refresh_tokens() == 0
    assert await events(storage) == []


async def test_no_secret_is_shown(
    storage: RefreshTokenStorage, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No secret is in a repr, a str, a log or an error."""
    caplog.set_level(logging.DEBUG)
    await storage.store_refresh_token("alice", SECRET)
    await storage.store_user_profile("alice", {"name": SECRET})
    await storage.app_passwords.store("alice", SECRET)
    await storage.oauth_clients.store(
        "c", SECRET, redirect_uris=[], registration_access_token=SECRET
    )
    await storage.login_flows.store("alice", SECRET, "https://x", expires_at=NOW)
    await storage.browser_sessions.create(SECRET, "alice", expires_at=NOW)
    await storage.oauth_sessions.create(
        SECRET,
        "http://x",
        expires_at=NOW,
        state=SECRET,
        mcp_authorization_code=SECRET,
        idp_access_token=SECRET,
        idp_refresh_token=SECRET,
        nonce=SECRET,
    )
    with pytest.raises(TokenStorageError) as conflict:
        await storage.oauth_sessions.create(SECRET, "http://x", expires_at=NOW)
    tamper(path, "DROP TABLE audit_logs")
    with pytest.raises(Exception) as broken:  # noqa: PT011 - no error may contain the secret
        await storage.store_refresh_token("alice", SECRET)
    shown: list[object] = [
        storage,
        await storage.get_refresh_token("alice"),
        await storage.profiles.get("alice"),
        await storage.app_passwords.get("alice"),
        await storage.oauth_clients.get(),
        await storage.login_flows.get("alice"),
        await storage.browser_sessions.get(SECRET),
        await storage.oauth_sessions.get(SECRET),
    ]
    assert None not in shown
    texts = [repr(thing) + str(thing) for thing in shown]
    texts += ["".join(traceback.format_exception(e.value)) for e in (conflict, broken)]
    for text in (*texts, caplog.text):
        assert SECRET not in text
        assert KEY not in text


async def test_a_store_shows_no_key(storage: RefreshTokenStorage, clock: Clock) -> None:
    """A store has no vars(), and cannot be pickled or copied."""
    assert repr(storage) == "<RefreshTokenStorage open>"
    with pytest.raises(TypeError):
        vars(storage)
    holders = (
        storage,
        storage.app_passwords,
        storage.audit,
        TokenStoreLifespan(encryption_key=KEY),
        Settings(Path("tokens.db"), keys=(KEY,)),
    )
    for write_out in (pickle.dumps, copy.deepcopy):
        for holder in holders:
            with pytest.raises(TypeError, match="not pickled or copied"):
                write_out(holder)
    with pytest.raises(TypeError, match="not pickled or copied"):
        copy.copy(storage)


async def test_the_clock_is_looked_up_at_each_call(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is replaced after the start is used, also by a row that was read before."""
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        monkeypatch.setattr(time, "time", lambda: NOW + 0.5)
        await storage.store_refresh_token("alice", "rt", expires_at=NOW + 60)
        token = present(await storage.get_refresh_token("alice"))
        assert (token.created_at, token.is_expired) == (NOW, False)
        monkeypatch.setattr(time, "time", lambda: NOW + 60.0)
        assert token.is_expired
        assert pickle.loads(pickle.dumps(token)).is_expired  # noqa: S301 - our own bytes
        assert await storage.delete_expired_refresh_tokens() == 1
