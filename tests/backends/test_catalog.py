"""What is read from the catalog, however it is written."""

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
def test_names_are_folded_as_sqlite_folds_them(name: str) -> None:
    """Letters of ASCII lose their case, and all others keep it."""
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("SELECT lower(?)", (name,)).fetchone() == (folded(name),)


def test_names_are_compared_without_their_case(tmp_path: Path) -> None:
    """Tables, columns, indexes and their owners are known by their folded names."""
    with closing(sqlite3.connect(tmp_path / "tokens.db")) as connection:
        connection.execute('CREATE TABLE "ÄPFEL" (ID INTEGER PRIMARY KEY, "Größe" TEXT UNIQUE)')
        connection.execute('CREATE INDEX IX_Size ON "ÄPFEL" ("Größe")')
        seen = read_structure(connection.execute)
    assert set(seen.tables) == {"Äpfel"}
    assert set(seen.tables["Äpfel"].columns) == {"id", "größe"}
    assert seen.owners == {"ix_size": "Äpfel"}, "what SQLite makes for UNIQUE is not listed"


def test_a_statement_that_is_no_text_is_read_all_the_same(tmp_path: Path) -> None:
    """A table that was made in another encoding, by hand, is seen like every other."""
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
