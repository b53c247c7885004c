"""The tables at head. ``tests/migrations/test_drift.py`` compares them with the migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.schema import CreateTable

from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.secrets import SECRETS
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.schema.tables import Ciphertext, metadata

if TYPE_CHECKING:
    from sqlalchemy import Dialect

SQLITE = SQLiteDialect()
POSTGRESQL = PGDialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's


def test_the_encrypted_columns_are_known_to_the_start() -> None:
    """The start verifies the keys on exactly the BLOBs that releases and the store encrypt."""
    released = load_history().structure("010").tables
    encrypted = {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, Ciphertext) and column.name in released[table.name].columns
    }
    assert set(ENCRYPTED) == encrypted


def test_every_encrypted_blob_is_a_secret_with_a_label_of_its_own() -> None:
    """What a secret is bound to is written down for each such column, and no label stands twice."""
    blobs = {
        (table.name, column.name)
        for table in metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, Ciphertext)
    }
    assert blobs <= {(secret.table, secret.column) for secret in SECRETS}
    assert len({secret.label for secret in SECRETS}) == len(SECRETS)
    for secret in SECRETS:
        assert {secret.column, *secret.bound} <= set(metadata.tables[secret.table].columns.keys())


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL], ids=["sqlite", "pg"])
def test_ciphertext_reads_as_bytes(dialect: Dialect) -> None:
    """BLOB, TEXT and memoryview are read as bytes, and NULL as None, on both engines."""
    read = Ciphertext().result_processor(dialect, None)
    assert read is not None
    assert [read(value) for value in (b"x", "x", memoryview(b"x"), None)] == [b"x"] * 3 + [None]


def test_the_tables_are_portable() -> None:
    """The tables have BLOB and 0 on SQLite, BYTEA and false on PostgreSQL."""

    def created(name: str, dialect: Dialect) -> str:
        return str(CreateTable(metadata.tables[name]).compile(dialect=dialect))

    assert "encrypted_token BLOB NOT NULL" in created("refresh_tokens", SQLITE)
    assert "encrypted_token BYTEA NOT NULL" in created("refresh_tokens", POSTGRESQL)
    assert "is_provisioning BOOLEAN DEFAULT 0" in created("oauth_sessions", SQLITE)
    assert "is_provisioning BOOLEAN DEFAULT false" in created("oauth_sessions", POSTGRESQL)
