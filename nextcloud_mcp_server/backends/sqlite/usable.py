"""Find tables that the store cannot use, although they have the right names and columns.

Others can change more than names: a key that ignores case, a type that turns text into a
number, an index with a function of another program. Every kind of statement of the store is
prepared on the file, and a few rows are stored in an empty copy of each table in memory.
Constraints that refuse only some values are left to the writes: they fail by name.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.backends.sqlite.catalog import folded
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming, needs_its_program
from nextcloud_mcp_server.errors import printable
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.structure import Table, quoted

_NUMBERS: Final = (1, 2, 3, 4)
_TEXTS: Final = ("a", "A", "7", "07")
_BYTES: Final = (b"a", b"A", b"7", b"\0\xff")

#: What makes a write succeed without the row, or without another one. No release had it.
_CONFLICT: Final = re.compile(r"(?i)\bon\s+conflict\s+(?:replace|ignore|rollback)\b")

#: What SQLite lacks: an object of another program, or one that is gone.
_LACKING: Final = re.compile(r"(?:no such [a-z ]+|unknown function): (?:main\.)?(\w+)")

#: Comes before the statements that remove what makes a table unusable.
REMOVAL: Final = "to remove "

#: A value that none of the rows has.
_OTHER: Final[Mapping[tuple[Any, ...], Any]] = {_NUMBERS: 5, _TEXTS: "b", _BYTES: b"b"}


def unusable_in(path: Path, wanted: Mapping[str, Table]) -> dict[str, str]:
    """Return :func:`unusable` for a database file."""
    with naming(path), closing(connect_read_only(path)) as connection:
        return unusable(connection, wanted)


def unusable(connection: sqlite3.Connection, wanted: Mapping[str, Table]) -> dict[str, str]:
    """Return the tables that the store cannot use, each with the reason.

    Args:
        connection: for this alone, outside of a transaction.
        wanted: the tables as released. Those that are missing in the file are left out, and
            so are missing columns.
    """
    found = {}
    with closing(sqlite3.Connection(":memory:", isolation_level=None)) as memory:
        # Only then can a statement be prepared that a reference makes impossible.
        connection.execute("PRAGMA foreign_keys=ON")
        memory.execute("PRAGMA foreign_keys=OFF")
        memory.execute("PRAGMA ignore_check_constraints=ON")
        memory.execute("BEGIN")
        there = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
        for written, sql in there.fetchall():
            name = folded(written)
            table = wanted.get(name)
            if table is None:
                continue
            reason = _unprepared(connection, name, table)
            if not reason and sql != table.sql:
                reason = _replaces_rows(sql) or _changes_values(memory, name, sql, table)
            if reason:
                found[name] = reason
    return found


def _unprepared(connection: sqlite3.Connection, name: str, table: Table) -> str:
    """Return why SQLite cannot prepare a read or a write of a table; empty if it can."""
    there = _columns(connection, name)
    for statement in _statements(name, table, [c for c in table.columns if c in there]):
        try:
            connection.execute(f"EXPLAIN {statement}")
        except sqlite3.OperationalError as error:
            if not needs_its_program(error):
                raise
            if "rowid" in str(error):
                return "it was created WITHOUT ROWID"
            return f"{error}{_attached(connection, name, str(error))}"
    return ""


def _replaces_rows(sql: str) -> str:
    """Return the clause by which a constraint deletes or ignores rows; empty if none has one."""
    found = _CONFLICT.search(sql)
    return f"one of its constraints has {' '.join(found[0].split())}" if found else ""


def _statements(name: str, table: Table, columns: Sequence[str]) -> Iterator[str]:
    """Yield one statement of each kind that the store has."""
    place, key = quoted(name), _list(table.key)
    first = quoted((*table.key, *columns)[0])
    rest = [column for column in columns if column not in table.key]
    changes = ", ".join(f"{quoted(column)} = excluded.{quoted(column)}" for column in rest)
    upsert = f" ON CONFLICT ({key}) DO UPDATE SET {changes}" if key and rest else ""
    # The store reads some keys from the row, and not from the index that led to it.
    yield f"SELECT rowid, {_list(columns)} FROM {place} WHERE {first} = NULL"  # noqa: S608
    values = ", ".join("NULL" for _ in columns)
    yield f"INSERT INTO {place} ({_list(columns)}) VALUES ({values}){upsert}"  # noqa: S608
    yield f"DELETE FROM {place} WHERE {first} = NULL"  # noqa: S608 - our own names


def _changes_values(memory: sqlite3.Connection, name: str, sql: str, table: Table) -> str:
    """Return what a table does not store as the released one does; empty if it does."""
    kinds = _kinds(memory, name, table)
    try:
        memory.execute(sql)
    except UnicodeEncodeError:
        # The bytes of a damaged page were read as surrogates.
        return "its definition is not readable text"
    there = _columns(memory, name)
    columns = [column for column in kinds if column in there]
    values = [kinds[column][0] for column in columns]
    empty = [None if kinds[column][1] else _OTHER[kinds[column][0]] for column in columns]
    insert = (
        f"INSERT INTO {quoted(name)} ({_list(columns)}) "  # noqa: S608 - our own names
        f"VALUES ({', '.join('?' for _ in columns)})"
    )
    try:
        memory.executemany(insert, [*zip(*values, strict=True), empty])
    except sqlite3.IntegrityError as error:
        return f"it does not take what the released table takes: {error}"
    query = f"SELECT {_list(columns)} FROM {quoted(name)} ORDER BY rowid"  # noqa: S608
    stored = zip(*memory.execute(query), strict=True)
    for column, given, found in zip(columns, values, stored, strict=True):
        if given != found[: len(given)]:
            return f"{column} does not keep the type of a value"
    for column in set(columns).intersection(table.key):
        where = f"FROM {quoted(name)} WHERE {quoted(column)} = ?"
        [(same,)] = memory.execute(f"SELECT count(*) {where}", kinds[column][0][:1])
        if same != 1:
            return f"{column} ignores case"
    return ""


def _kinds(
    memory: sqlite3.Connection, name: str, table: Table
) -> dict[str, tuple[tuple[Any, ...], bool]]:
    """Return values for each column of the released table, and whether it takes NULL."""
    memory.execute(table.sql)
    rows = memory.execute(f"PRAGMA table_info({quoted(name)})").fetchall()
    memory.execute(f"DROP TABLE {quoted(name)}")
    return {
        column: (_values(kind.upper()), not (required or key))
        for _, column, kind, required, _, key in rows
    }


def _values(kind: str) -> tuple[Any, ...]:
    if "CHAR" in kind or "TEXT" in kind:
        return _TEXTS
    return _BYTES if kind in {"BLOB", ""} else _NUMBERS


def _attached(connection: sqlite3.Connection, name: str, error: str) -> str:
    """Return what an operator attached to a table and how to remove it, as the end of a message."""
    lacking = _LACKING.match(error)
    if lacking is None:
        return ""
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE lower(tbl_name) = ? "
        "AND type IN ('index', 'trigger') AND sql IS NOT NULL ORDER BY type, name",
        (name,),
    )
    ours = load_history().indexes
    theirs = [(kind, there, sql) for kind, there, sql in rows if folded(there) not in ours]
    word = re.compile(rf"(?i)\b{lacking[1]}\b")
    named = [one for one in theirs if word.search(one[2])] or theirs
    if not named:
        return ""
    names = ", ".join(f"{kind} {printable(there)}" for kind, there, _ in named)
    drops = "; ".join(f"DROP {kind.upper()} {printable(quoted(there))}" for kind, there, _ in named)
    return f" (it has {names}; {REMOVAL}{'it' if len(named) == 1 else 'them'}: {drops})"


def _columns(connection: sqlite3.Connection, name: str) -> set[str]:
    """Return the columns of a table, generated ones too."""
    rows = connection.execute(f"PRAGMA table_xinfo({quoted(name)})")
    return {folded(column) for _, column, *_ in rows}


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))
