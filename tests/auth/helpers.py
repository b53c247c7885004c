"""Helpers of the tests of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
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


async def events(storage: RefreshTokenStorage) -> list[tuple[str, str]]:
    """Return the events in the audit log with their users, oldest first."""
    entries = await storage.audit.list(limit=1000)
    return [(entry.event, entry.user_id) for entry in reversed(entries)]
