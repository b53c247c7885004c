"""Helpers of the tests of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import binding
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.schema.secrets import secrets_of
from tests.support.contents import KEY

KEYRING = Keyring([KEY])

NOW = 1_800_000_000


class Clock:
    """A clock that the test sets. The fraction shows that the store truncates it."""

    def __init__(self) -> None:
        self.time = NOW + 0.75

    def __call__(self) -> float:
        """Return seconds since 1970."""
        return self.time


def tamper(path: Path, sql: str, parameters: Sequence[Any] = ()) -> None:
    """Change the file as another program."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql, parameters)


def opened(path: Path, table: str, column: str) -> list[str]:
    """Decrypt each value of a column with the key of the tests, bound to its own row."""
    secret = secrets_of(table)[column]
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        rows = connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
    found = [KEYRING.opened(row[column], binding(secret, dict(row))) for row in rows]
    return [plaintext.decode() for _, plaintext in filter(None, found)]


async def events(storage: RefreshTokenStorage) -> list[tuple[str, str]]:
    """Return the events in the audit log with their users, oldest first."""
    entries = await storage.audit.list(limit=1000)
    return [(entry.event, entry.user_id) for entry in reversed(entries)]
