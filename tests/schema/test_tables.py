"""The tables at head, held to the migrations."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Dialect, create_engine
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.schema import CreateTable

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.schema.tables import Ciphertext, metadata

SQLITE: Dialect = SQLiteDialect()
POSTGRESQL: Dialect = PGDialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's

KEY = "bm1jcC1jb3JwdXMtZml4ZWQta2V5LTAxMjM0NTY3ODk="


def facts(path: Path) -> dict[str, dict[str, Any]]:
    """Every table of ours with its columns, in order, and its indexes, unique ones included."""
    with closing(sqlite3.connect(path)) as connection:

        def ask(sql: str, name: str) -> list[tuple[Any, ...]]:
            return connection.execute(sql, (name,)).fetchall()

        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' "
            "AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND name <> 'alembic_version'"
        ).fetchall()
        return {
            name: {
                "columns": ask(
                    'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(?)', name
                ),
                "indexes": sorted(
                    (
                        index if origin == "c" else origin,
                        unique,
                        [
                            column
                            for (column,) in ask("SELECT name FROM pragma_index_info(?)", index)
                        ],
                    )
                    for index, unique, origin in ask(
                        'SELECT name, "unique", origin FROM pragma_index_list(?)', name
                    )
                ),
            }
            for (name,) in names
        }


async def test_the_tables_are_those_that_the_migrations_make(tmp_path: Path) -> None:
    """Metadata and a migrated database agree in both directions: tables, columns, indexes."""
    migrated, declared = tmp_path / "migrated.db", tmp_path / "declared.db"
    async with RefreshTokenStorage(migrated, encryption_key=KEY):
        pass
    engine = create_engine(f"sqlite:///{declared}")
    metadata.create_all(engine)
    engine.dispose()
    assert facts(declared) == facts(migrated), "schema.py does not declare what the migrations make"


def test_the_sealed_columns_are_known_to_the_start() -> None:
    """The start proves the keys on exactly the columns that the store seals."""
    sealed = {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, Ciphertext)
    }
    assert set(ENCRYPTED) == sealed


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL], ids=["sqlite", "pg"])
def test_ciphertext_reads_as_bytes(dialect: Dialect) -> None:
    """BLOB, TEXT and memoryview are read as bytes, and NULL as None, on both engines."""
    read = Ciphertext().result_processor(dialect, None)
    assert read is not None
    assert [read(value) for value in (b"x", "x", memoryview(b"x"), None)] == [b"x"] * 3 + [None]


def test_the_tables_are_portable() -> None:
    """The same declarations are BLOB and 0 on SQLite, BYTEA and false on PostgreSQL."""

    def created(name: str, dialect: Dialect) -> str:
        return str(CreateTable(metadata.tables[name]).compile(dialect=dialect))

    assert "encrypted_token BLOB NOT NULL" in created("refresh_tokens", SQLITE)
    assert "encrypted_token BYTEA NOT NULL" in created("refresh_tokens", POSTGRESQL)
    assert "is_provisioning BOOLEAN DEFAULT 0" in created("oauth_sessions", SQLITE)
    assert "is_provisioning BOOLEAN DEFAULT false" in created("oauth_sessions", POSTGRESQL)
