"""A damaged index that leads to another row is detected by every read."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed
from nextcloud_mcp_server.errors import TokenStorageError
from tests.support.contents import KEY

LATER = 4_000_000_000
MINE, ANOTHERS = "key-of-alice-0123456789-1", "key-of-mallory-01234567-2"

Use = Callable[[RefreshTokenStorage], Awaitable[object]]


async def _token(storage: RefreshTokenStorage) -> None:
    await storage.store_refresh_token(MINE, "a-refresh-token")
    await storage.store_user_profile(MINE, {"sub": "alice"})


async def _oauth(storage: RefreshTokenStorage) -> None:
    await storage.oauth_sessions.create(
        MINE, "http://localhost/cb", expires_at=LATER, mcp_authorization_code=MINE
    )


READS: dict[str, tuple[str, Use, Use]] = {
    "a refresh token": ("refresh_tokens", _token, lambda s: s.get_refresh_token(ANOTHERS)),
    "a profile": ("refresh_tokens", _token, lambda s: s.get_user_profile(ANOTHERS)),
    "a browser session": (
        "browser_sessions",
        lambda s: s.browser_sessions.create(MINE, "alice", expires_at=LATER),
        lambda s: s.browser_sessions.get(ANOTHERS),
    ),
    "an OAuth session": ("oauth_sessions", _oauth, lambda s: s.oauth_sessions.get(ANOTHERS)),
    "an OAuth session by its code": (
        "oauth_sessions",
        _oauth,
        lambda s: s.oauth_sessions.get_by_code(ANOTHERS),
    ),
}


def _mislead(path: Path, table: str) -> None:
    """Overwrite the key in every index of ``table``, but not in its rows."""
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        query = "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = ?"
        pages = [page for (page,) in connection.execute(query, (table,))]
    content = bytearray(path.read_bytes())
    for page in pages:
        there = slice((page - 1) * size, page * size)
        for stored in (str, hashed):
            content[there] = content[there].replace(
                stored(MINE).encode(), stored(ANOTHERS).encode()
            )
    path.write_bytes(content)


@pytest.mark.parametrize(("table", "write", "read"), READS.values(), ids=READS.keys())
async def test_a_read_never_returns_another_row(
    table: str, write: Use, read: Use, tmp_path: Path
) -> None:
    """If the index leads to another row, the error is ``corrupt``."""
    path = tmp_path / "tokens.db"
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await write(storage)
        assert await read(storage) is None
    _mislead(path, table)
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        with pytest.raises(TokenStorageError) as caught:
            await read(storage)
    assert caught.value.code == "corrupt"
    assert "a-refresh-token" not in caught.value.message
