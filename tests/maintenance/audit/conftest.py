"""A database with secrets and their entries, on each engine."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.maintenance.audit.verify import Verified, verify
from nextcloud_mcp_server.settings import Settings, load_settings
from tests.support.contents import KEY
from tests.support.postgresql import Server
from tests.support.secret_rows import store_each_secret


@dataclass(frozen=True)
class Place:
    """A database that a test changes as somebody without the key does."""

    name: str

    def sql(self, statement: str, *parameters: Any) -> list[Sequence[Any]]:
        """Run a statement with ``?`` for each parameter; return its rows."""
        if "://" in self.name:
            with psycopg.connect(self.name, autocommit=True) as connection:
                cursor = connection.execute(statement.replace("?", "%s"), parameters)
                return list(cursor.fetchall() if cursor.description else [])
        with closing(sqlite3.connect(self.name, isolation_level=None)) as connection:
            return connection.execute(statement, parameters).fetchall()

    def settings(self, *keys: str) -> Settings:
        """Return settings with these keys (default: that of the tests)."""
        return load_settings({}, database=self.name)._replace(keys=keys or (KEY,))

    def verify(self, *keys: str, limit: int | None = None) -> Verified:
        """Verify it."""
        return verify(self.settings(*keys), limit=limit)

    def changed(self, *keys: str) -> list[tuple[str, str]]:
        """Return the table and row of each secret that was changed."""
        return [(one.table, one.row) for one in self.verify(*keys).changed.first]

    def wrong(self) -> list[int]:
        """Return the ids of the entries that were forged or changed."""
        return [one.entry.id for one in self.verify().wrong.first]

    def token(self, user: str) -> Any:
        """Return the ciphertext of a refresh token."""
        query = "SELECT encrypted_token FROM refresh_tokens WHERE user_id = ?"
        return self.sql(query, user)[0][0]

    def put(self, user: str, token: Any) -> None:
        """Write the ciphertext of a refresh token."""
        self.sql("UPDATE refresh_tokens SET encrypted_token = ? WHERE user_id = ?", token, user)

    def store(self, key: str = KEY) -> RefreshTokenStorage:
        """Return a store on it."""
        return RefreshTokenStorage(self.name, encryption_key=key)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, path: Path) -> Place:
    """A place where there is nothing yet."""
    if request.param == "sqlite":
        return Place(str(path))
    server: Server = request.getfixturevalue("postgresql_server")
    return Place(server.schema()[1])


@pytest.fixture
async def place(empty: Place) -> Place:
    """A database with a secret of each column, and with two states of a token."""
    async with empty.store() as store:
        await store_each_secret(store)
    return empty
