"""Reading the catalog of SQLite into a structure."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.backends.sqlite.catalog import folded, read_structure
from nextcloud_mcp_server.backends.sqlite.inspect import look


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_names_are_folded_as_in_sqlite(name: str) -> None:
    """Only ASCII letters are converted to lower case."""
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT lower(?)", (name,)).fetchone() == (folded(name),)


def test_names_are_compared_without_their_case(tmp_path: Path) -> None:
    """Tables, columns, indexes and their owners have folded names."""
    with closing(sqlite3.connect(tmp_path / "tokens.db")) as connection:
        connection.execute('CREATE TABLE "ÄPFEL" (ID INTEGER PRIMARY KEY, "Größe" TEXT UNIQUE)')
        connection.execute('CREATE INDEX IX_Size ON "ÄPFEL" ("Größe")')
        found = read_structure(connection.execute)
    assert set(found.tables) == {"Äpfel"}
    assert set(found.tables["Äpfel"].columns) == {"id", "größe"}
    assert found.owners == {"ix_size": "Äpfel"}, "the index of UNIQUE is not listed"


def test_a_statement_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    """A statement in another encoding is read with surrogate escapes."""
    path = tmp_path / "tokens.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (word TEXT)")
        connection.execute("PRAGMA writable_schema=ON")
        statement = b"CREATE TABLE mine (word TEXT DEFAULT 'caf\xe9')"
        connection.execute("UPDATE sqlite_master SET sql = CAST(? AS TEXT)", (statement,))
        connection.commit()
    with closing(sqlite3.connect(path)) as connection, pytest.raises(sqlite3.OperationalError):
        connection.execute("SELECT sql FROM sqlite_master").fetchall()
    table = look(path).structure.tables["mine"]
    assert table.sql.encode("utf-8", "surrogateescape") == statement
    assert list(table.columns) == ["word"]
