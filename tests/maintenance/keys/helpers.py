"""Databases with secrets of several keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet

from nextcloud_mcp_server.crypto.binding import binding, stored_id
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.schema.secrets import HASHED, SECRETS, secrets_of
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import rows
from tests.support.contents import KEY, OTHER_KEY

TOKEN: Final = secrets_of("refresh_tokens")["encrypted_token"]

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
    """Return every refresh token, decrypted with these keys for its row, by user."""
    ring = Keyring(keys)
    found: dict[str, str] = {}
    for user, audience, stored in rows(
        path, "SELECT user_id, token_audience, encrypted_token FROM refresh_tokens"
    ):
        opened = ring.opened(stored, binding(TOKEN, {"user_id": user, "token_audience": audience}))
        assert opened is not None, user
        found[user] = opened[1].decode().reveal()
    return found


def secrets(path: Path) -> dict[tuple[str, str, int], bytes | str]:
    """Return every encrypted value as it is stored, by table, column and rowid."""
    with opened(path) as connection:
        return {
            (secret.table, secret.column, at): value
            for secret in SECRETS
            if (secret.column,)
            in connection.execute(f"SELECT name FROM pragma_table_info('{secret.table}')")
            for at, value in connection.execute(
                f"SELECT rowid, {secret.column} FROM {secret.table} "
                f"WHERE {secret.column} IS NOT NULL"
            )
        }


def plaintexts(path: Path, *keys: str) -> dict[tuple[str, str, int], str]:
    """Return every secret in plain, by table, column and rowid; an id as its hash."""
    ring = Keyring(keys)
    found: dict[tuple[str, str, int], str] = {}
    with opened(path) as connection:
        connection.row_factory = sqlite3.Row
        for secret in SECRETS:
            for row in connection.execute(f"SELECT rowid AS at, * FROM {secret.table}"):
                value = row[secret.column]
                if secret.column == "encrypted_state" and value is None:
                    value = row["state"]
                if value is None:
                    continue
                plain = isinstance(value, str) and not value.startswith(("v2.", "gAAAA"))
                opened_value = None if plain else ring.opened(value, binding(secret, dict(row)))
                assert plain or opened_value is not None, (secret, row["at"])
                text = value if opened_value is None else opened_value[1].decode()
                found[secret.table, secret.column, row["at"]] = text
        for table, name in HASHED:
            for at, value in connection.execute(f"SELECT rowid, {name} FROM {table}"):
                if value is not None:
                    found[table, name, at] = str(stored_id(value))
    return found
