"""Databases with secrets of several keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import rows
from tests.support.contents import KEY, OTHER_KEY

NEW: Final = Fernet.generate_key().decode()

#: The fingerprints of the new key, of the key of the tests, and of one that is not given.
NEWEST, OLDER, LOST = (Keyring(key).fingerprints[0] for key in (NEW, KEY, OTHER_KEY))


def given(path: Path, *keys: str) -> Settings:
    """Return settings with these keys (default: the new one and that of the tests)."""
    return Settings(path, keys or (NEW, KEY))


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the database; each statement is committed."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        yield connection


def grant(path: Path, user: str, secret: bytes | str | None = None) -> None:
    """Store a refresh token of a user as it is given."""
    if secret is None:
        secret = Fernet(KEY).encrypt(user.encode())
    with opened(path) as connection:
        connection.execute(
            "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
            "VALUES (?, ?, 1, 1)",
            (user, secret),
        )


def grant_many(path: Path, number: int) -> None:
    """Store the refresh tokens of ``number`` users in one transaction."""
    fernet = Fernet(KEY)
    with opened(path) as connection:
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
            "VALUES (?, ?, 1, 1)",
            ((f"user-{n}", fernet.encrypt(f"token-{n}".encode())) for n in range(number)),
        )
        connection.execute("COMMIT")


def tokens(path: Path, *keys: str) -> dict[str, str]:
    """Return every refresh token, decrypted with these keys, by user."""
    ring = Keyring(keys)
    stored = rows(path, "SELECT user_id, encrypted_token FROM refresh_tokens")
    return {user: ring.decrypt(secret) for user, secret in stored}


def secrets(path: Path) -> dict[tuple[str, str, int], bytes | str]:
    """Return every encrypted value as it is stored, by table, column and rowid."""
    with opened(path) as connection:
        return {
            (table, column, at): value
            for table, column in ENCRYPTED
            for at, value in connection.execute(
                f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL"
            )
        }
