"""A wrong, missing or malformed key stops a start at once, and changes nothing."""

from __future__ import annotations

import asyncio
import sqlite3
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.keyfile import key_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.verification import verified_keyring
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.settings import Settings
from tests.support import invariants
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses

[RIGHT], [WRONG] = Keyring([KEY]).keys, Keyring([OTHER_KEY]).keys

#: The keys that are given, the code of the error, and what its message has.
REFUSED = {
    "wrong": ((OTHER_KEY,), "wrong-key", (RIGHT.fingerprint, WRONG.fingerprint)),
    "missing": ((), "key-missing", (RIGHT.fingerprint,)),
    "malformed": ((KEY[:-1],), "malformed-key", ()),
}


@pytest.fixture
def secrets(path: Path, request: pytest.FixtureRequest) -> int:
    """The number of secrets that ``path`` holds, beside the one that registered the key."""
    secret = secrets_of("refresh_tokens")["encrypted_token"]
    users = [f"user-{number}" for number in range(request.param)]
    with closing(sqlite3.connect(path)) as connection, connection:
        for user in users:
            row = {"user_id": user, "token_audience": "nextcloud"}
            connection.execute(
                "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
                "VALUES (?, ?, 1, 1)",
                (user, RIGHT.seal(b"token", binding(secret, row))),
            )
    return len(users)


async def _seconds(path: Path, keys: tuple[str, ...]) -> float:
    storage = RefreshTokenStorage(settings=Settings(path, keys))
    begun = time.monotonic()
    try:
        await storage.initialize()
    finally:
        seconds = time.monotonic() - begun
        await storage.close()
    return seconds


@pytest.fixture
async def path(token_db: Path) -> Path:
    """A database whose key is registered."""
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
    return token_db


@pytest.mark.parametrize("secrets", [0, 10_000], indirect=True)
@pytest.mark.parametrize(("keys", "code", "named"), REFUSED.values(), ids=REFUSED)
async def test_a_start_without_the_right_key_is_refused(
    keys: tuple[str, ...], code: str, named: tuple[str, ...], path: Path, secrets: int
) -> None:
    """The fingerprints that are expected and given are named, and every byte stays the same.

    With ten thousand secrets it takes no longer than a start with the right key, and a second.
    """
    right = await _seconds(path, (KEY,))
    with invariants.unchanged(path):
        begun = time.monotonic()
        with refuses(code) as caught:
            await _seconds(path, keys)
        assert time.monotonic() - begun < 3 * right + 1
    for name in named:
        assert name in str(caught.value)


def test_the_secrets_are_not_held_in_memory(tmp_path: Path) -> None:
    """A wrong key for a released database is refused after each secret was tried, one at a time."""
    read = 0

    def samples(limit: int | None) -> Iterator[bytes]:
        nonlocal read
        for _ in range(200 if limit is None else 1):
            read += 1
            yield RIGHT.encrypt_fernet(bytes(100_000))

    tracemalloc.start()
    try:
        with refuses("wrong-key"):
            verified_keyring(Keyring(OTHER_KEY), samples, tmp_path / "tokens.db")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read > 200
    assert peak < 5_000_000


@pytest.mark.parametrize("registered", [True, False])
async def test_the_right_key_beside_the_database_is_named(
    registered: bool, path: Path, beside: Path
) -> None:
    """A wrong key in the environment while the file has the right one: the remedy says so."""
    if not registered:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("DELETE FROM keys")
    with refuses("wrong-key") as caught:
        await _seconds(path, (OTHER_KEY,))
    assert caught.value.remedy.startswith(f"{beside} has the right key. Unset ")


async def test_another_wrong_key_beside_the_database_is_not_named(path: Path) -> None:
    """The remedy only names a file whose key opens the secrets."""
    beside = key_path(path)
    await asyncio.to_thread(beside.write_text, OTHER_KEY, "utf-8")
    await asyncio.to_thread(beside.chmod, 0o600)
    with refuses("wrong-key") as caught:
        await _seconds(path, (OTHER_KEY,))
    assert "has the right key" not in caught.value.remedy


@pytest.fixture
def beside(path: Path) -> Path:
    """The key file beside the database, with the right key."""
    file = key_path(path)
    file.touch(0o600)
    file.write_text(KEY, "utf-8")
    return file
