"""Damage in the pages of a database, and making its indexes anew where only they are hurt.

An index holds nothing that its table does not, so ``REINDEX`` loses nothing, as long as the
pages of every table are whole. Whether they are is tried on a copy in memory.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.backup import copy_database
from nextcloud_mcp_server.backends.sqlite.catalog import quoted
from nextcloud_mcp_server.backends.sqlite.connect import BUSY_TIMEOUT, connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming

#: Above this a database is not copied into memory to try its indexes.
_LARGEST: Final = 1 << 30


def damage(path: Path, pragma: str = "quick_check") -> list[str]:
    """What SQLite finds wrong with ``path``, one complaint each; nothing where all is well."""
    try:
        with closing(connect_read_only(path)) as connection:
            return complaints_of(connection, pragma)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return [" ".join(str(error).split())]


def complaints_of(connection: sqlite3.Connection, pragma: str) -> list[str]:
    """As :func:`damage`, on an open connection."""
    rows = connection.execute(f"PRAGMA {pragma}(20)").fetchall()
    said = [" ".join(str(row[0]).split()) for row in rows if row[0] != "ok"]
    return [text.removeprefix("*** in database main *** ") for text in said]


def only_indexes(path: Path) -> bool:
    """Whether making every index anew would mend ``path``: tried on a copy in memory."""
    try:
        if path.stat().st_size > _LARGEST:
            return False
        with (
            closing(connect_read_only(path)) as reader,
            closing(sqlite3.connect(":memory:", isolation_level=None)) as copy,
        ):
            copy_database(reader, copy, "copying it")
            before = row_counts(copy)
            copy.execute("REINDEX")
            return not complaints_of(copy, "integrity_check") and row_counts(copy) == before
    except (sqlite3.Error, UnicodeDecodeError, OSError):
        return False


def row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """The rows of every table, counted in the table itself and in none of its indexes."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL %'"
    ).fetchall()
    counted = {}
    for (name,) in names:
        query = f"SELECT count(*) FROM {quoted(name)} NOT INDEXED"  # noqa: S608 - its own names
        (counted[name],) = connection.execute(query).fetchone()
    return counted


def make_indexes(path: Path) -> str:
    """Make every index anew from its table; why it was rolled back, empty where it was not.

    In one transaction, which is committed only if every page is whole afterwards and every
    table has the rows that it had. Only under the lock.

    Raises:
        TokenStorageError: what SQLite or the operating system reports; nothing has changed.
    """
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    with naming(path), closing(connection):
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("BEGIN IMMEDIATE")
        before = row_counts(connection)
        connection.execute("REINDEX")
        complaints = complaints_of(connection, "integrity_check")
        if complaints or row_counts(connection) != before:
            connection.execute("ROLLBACK")
            return "; ".join(complaints[:3]) or "rows would be lost with an index"
        connection.execute("COMMIT")
    return ""
