"""The content of a database file, read with sqlite3 from a copy.

A copy, because reading changes a WAL or a hot journal.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The suffixes of SQLite's files beside a database.
COMPANIONS = ("-wal", "-shm", "-journal")

Value = tuple[str, Any]
Row = Mapping[str, Value]


@dataclass(frozen=True)
class Snapshot:
    """Every row of every table, with the SQLite type of each value.

    Attributes:
        rows: by lower-cased name of the table.
        columns: by lower-cased name of the table, the default of each column.
        keys: by lower-cased name of the table, the columns of the primary key in order.
        unique: by lower-cased name of the table, the column sets that are unique.
        indexes: the columns of each named index.
        others: type and name of every other object.
        marks: user_version, application_id, encoding.
    """

    rows: Mapping[str, list[Row]]
    columns: Mapping[str, Mapping[str, str | None]]
    keys: Mapping[str, tuple[str, ...]]
    unique: Mapping[str, frozenset[frozenset[str]]]
    indexes: Mapping[str, tuple[str, ...]]
    others: frozenset[tuple[str, str]]
    marks: tuple[int, int, str]

    @property
    def versions(self) -> list[Any]:
        """The rows of the version table."""
        return [row["version_num"][1] for row in self.rows.get("alembic_version", [])]


def counted(rows: Iterable[Row]) -> Counter[str]:
    """Return rows as a multiset, to compare them without their order."""
    return Counter(repr(sorted(row.items())) for row in rows)


def copy_database(source: Path, target: Path) -> None:
    """Copy a closed database with SQLite's files beside it, their times and modes."""
    for suffix in ("", *COMPANIONS):
        if (origin := source.with_name(source.name + suffix)).exists():
            shutil.copy2(origin, target.with_name(target.name + suffix))


@contextmanager
def opened_copy(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a copy of a closed database."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        copy_database(path, copy)
        with closing(sqlite3.connect(copy)) as connection:
            yield connection


def snapshot(path: Path) -> Snapshot:
    """Read a closed database.

    Raises:
        sqlite3.DatabaseError: if it is damaged or no database.
    """
    with opened_copy(path) as connection:
        return _read(connection)


def _read(connection: sqlite3.Connection) -> Snapshot:
    objects = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
    tables = [n for kind, n in objects if kind == "table" and not n.startswith("sqlite_")]
    pragmas = ("user_version", "application_id", "encoding")
    info = {t: connection.execute(f'PRAGMA table_info("{t}")').fetchall() for t in tables}
    return Snapshot(
        rows={t.lower(): _rows(connection, t, [c[1] for c in info[t]]) for t in tables},
        columns={t.lower(): {c[1].lower(): c[4] for c in info[t]} for t in tables},
        keys={
            t.lower(): tuple(c[1] for c in sorted(info[t], key=lambda c: c[5]) if c[5])
            for t in tables
        },
        unique={t.lower(): frozenset(_unique(connection, t)) for t in tables},
        indexes={
            name: _index_columns(connection, name)
            for kind, name in objects
            if kind == "index" and not name.startswith("sqlite_")
        },
        others=frozenset((k, n) for k, n in objects if k in ("view", "trigger")),
        marks=tuple(connection.execute(f"PRAGMA {p}").fetchone()[0] for p in pragmas),
    )


def _rows(connection: sqlite3.Connection, table: str, columns: list[str]) -> list[Row]:
    asked = ", ".join(f'typeof("{column}"), "{column}"' for column in columns)
    return [
        {c.lower(): (row[2 * i], row[2 * i + 1]) for i, c in enumerate(columns)}
        for row in connection.execute(f'SELECT {asked} FROM "{table}"')
    ]


def _unique(connection: sqlite3.Connection, table: str) -> Iterator[frozenset[str]]:
    for index in connection.execute(f'PRAGMA index_list("{table}")').fetchall():
        if index[2]:
            yield frozenset(_index_columns(connection, index[1]))


def _index_columns(connection: sqlite3.Connection, name: str) -> tuple[str, ...]:
    return tuple(row[2] for row in connection.execute(f'PRAGMA index_info("{name}")'))
