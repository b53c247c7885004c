"""A deleted or replaced secret leaves the file and the -wal when the store is idle or closed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import wal
from tests.support.contents import KEY

#: Longer than a page, so that it has pages of its own.
LONG = "t" * 10_000


async def _forget_token(store: RefreshTokenStorage) -> None:
    await store.delete_refresh_token("alice")


async def _replace_token(store: RefreshTokenStorage) -> None:
    await store.store_refresh_token("alice", "new")


async def _forget_password(store: RefreshTokenStorage) -> None:
    await store.app_passwords.delete("alice")


async def _replace_client(store: RefreshTokenStorage) -> None:
    await store.oauth_clients.store("client", "new", redirect_uris=[])


async def _expire_flow(store: RefreshTokenStorage) -> None:
    assert await store.login_flows.delete_expired() == 1


#: How each column loses its secret.
Work = Callable[[RefreshTokenStorage], Awaitable[None]]
LOST = pytest.mark.parametrize(
    ("column", "lose"),
    [
        ("refresh_tokens.encrypted_token", _forget_token),
        ("refresh_tokens.encrypted_token", _replace_token),
        ("app_passwords.encrypted_password", _forget_password),
        ("oauth_clients.encrypted_client_secret", _replace_client),
        ("login_flow_sessions.encrypted_poll_token", _expire_flow),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)


async def _filled(path: Path, secret: str) -> AsyncIterator[RefreshTokenStorage]:
    async with RefreshTokenStorage(path, encryption_key=KEY) as store:
        await store.store_refresh_token("alice", secret)
        await store.app_passwords.store("alice", secret)
        await store.oauth_clients.store("client", secret, redirect_uris=[])
        await store.login_flows.store("alice", secret, "https://x", expires_at=1)
        yield store


@pytest.fixture(params=["short", LONG], ids=["short", "long"])
async def store(
    path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RefreshTokenStorage]:
    """Return an open store with a secret of each kind, which is idle after a fifth of a second."""
    monkeypatch.setattr(wal, "IDLE", 0.2)
    async for opened in _filled(path, request.param):
        yield opened


def _stored(path: Path, column: str) -> bytes:
    """Return the end of a ciphertext, which lies in one piece also behind a full page."""
    table, name = column.split(".")
    with closing(sqlite3.connect(path)) as connection:
        [(value,)] = connection.execute(f"SELECT {name} FROM {table}").fetchall()
    return bytes(value if isinstance(value, bytes) else value.encode("ascii"))[-64:]


def _holders(path: Path, needle: bytes) -> set[str]:
    return {file.name for file in path.parent.iterdir() if needle in file.read_bytes()}


@LOST
async def test_an_idle_store_has_forgotten_it(
    column: str, lose: Work, store: RefreshTokenStorage, path: Path
) -> None:
    """Soon after the last write no file beside the database has the ciphertext."""
    needle = _stored(path, column)
    await lose(store)
    assert "tokens.db-wal" in _holders(path, needle)
    for _ in range(100):
        if not _holders(path, needle):
            break
        await asyncio.sleep(0.1)
    assert _holders(path, needle) == set()
    assert await store.list_user_ids() is not None


@LOST
async def test_a_closed_store_has_forgotten_it(
    column: str, lose: Work, store: RefreshTokenStorage, path: Path
) -> None:
    """A store that closes at once leaves it neither, also beside another program."""
    needle = _stored(path, column)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM refresh_tokens").fetchall()
        await lose(store)
        await store.close()
        assert (path.parent / "tokens.db-wal").exists()
        assert _holders(path, needle) == set()


@LOST
async def test_a_passive_checkpoint_leaves_it(
    column: str, lose: Work, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: SQLite's automatic kind copies the pages, and does not clear the -wal."""
    monkeypatch.setattr(wal, "IDLE", 60.0)
    async for opened in _filled(path, "short"):
        needle = _stored(path, column)
        await lose(opened)
        with closing(sqlite3.connect(path)) as other:
            busy, pages, copied = other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert (busy, pages) == (0, copied)
        assert _holders(path, needle) == {"tokens.db-wal"}


async def test_without_secure_delete_the_file_keeps_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a checkpoint alone does not clear the pages that a deletion frees."""
    async for opened in _filled(path, LONG):
        needle = _stored(path, "refresh_tokens.encrypted_token")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("PRAGMA secure_delete=OFF")
            other.execute("DELETE FROM refresh_tokens")
        await opened.close()
        assert _holders(path, needle) == {"tokens.db"}


async def test_nobody_waits_for_an_idle_checkpoint(store: RefreshTokenStorage, path: Path) -> None:
    """Beside a reader and a writer of another program the store reads, and clears it later."""
    needle = _stored(path, "refresh_tokens.encrypted_token")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM refresh_tokens").fetchall()
        await store.delete_refresh_token("alice")
        await asyncio.sleep(0.5)
        assert _holders(path, needle)
        async with asyncio.timeout(5):
            await store.app_passwords.get("alice")
            await store.store_refresh_token("bob", "token")
        other.execute("COMMIT")
    for _ in range(100):
        if not _holders(path, needle):
            break
        await asyncio.sleep(0.1)
    assert _holders(path, needle) == set()
