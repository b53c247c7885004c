"""Rebuild the indexes of a database if only they are damaged.

An index holds only data of its table, so ``REINDEX`` loses nothing if the pages of every
table are intact. A copy in memory shows whether they are.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.backup import copy_database
from nextcloud_mcp_server.backends.sqlite.connect import (
    BUSY_TIMEOUT,
    connect_read_only,
    connect_to_write,
    open_connection,
)
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.integrity import check
from nextcloud_mcp_server.schema.structure import quoted

#: The largest database, in bytes, that is copied into memory to test its indexes.
_LARGEST: Final = 1 << 30


def only_indexes(path: Path) -> bool:
    """Return whether ``REINDEX`` would repair ``path``, tested on a copy in memory."""
    try:
        if path.stat().st_size > _LARGEST:
            return False
        with (
            closing(connect_read_only(path)) as reader,
            closing(open_connection(":memory:", isolation_level=None)) as copy,
        ):
            copy_database(reader, copy, "copying it")
            before = row_counts(copy)
            copy.execute("REINDEX")
            return not check(copy, "integrity_check").damage and row_counts(copy) == before
    except (sqlite3.Error, UnicodeDecodeError, OSError):
        return False


def row_counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the row count of every table, without the use of an index."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL %'"
    ).fetchall()
    counted = {}
    for (name,) in names:
        query = f"SELECT count(*) FROM {quoted(name)} NOT INDEXED"  # noqa: S608 - its own names
        (counted[name],) = connection.execute(query).fetchone()
    return counted


def rebuild_indexes(path: Path) -> str:
    """Rebuild every index from its table; return why that was rolled back, empty if not.

    It is one transaction, committed only if every page is intact afterwards and no row
    count changed. Call it under the lock.

    Raises:
        TokenStorageError: an error of SQLite or the operating system; nothing has changed.
    """
    with naming(path), closing(connect_to_write(path, BUSY_TIMEOUT)) as connection:
        connection.execute("PRAGMA synchronous=EXTRA")
        connection.execute("BEGIN IMMEDIATE")
        before = row_counts(connection)
        connection.execute("REINDEX")
        damage = check(connection, "integrity_check").damage
        if damage or row_counts(connection) != before:
            connection.execute("ROLLBACK")
            return "; ".join(damage[:3]) or "rows would be lost with an index"
        connection.execute("COMMIT")
    return ""
