"""Databases as immutable values: the tables, columns and version rows of a file.

Methods return a changed copy (:meth:`Shape.narrowed`, :meth:`Shape.stepped`);
:meth:`Shape.write` creates the file, with rows in every table and encrypted secrets.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nextcloud_mcp_server.backends.sqlite import backup_files
from tests.support import contents, revisions
from tests.support.by_path import prepare
from tests.support.facts import (
    ADDED_LATER,
    INDEXES,
    STEPS,
    TABLES,
    VERSION_TABLE,
    Lineage,
    Step,
    Table,
)

_OPPOSITES = {
    "table": "drop-table",
    "index": "drop-index",
    "drop-table": "table",
    "drop-index": "index",
}


@dataclass(frozen=True)
class Made:
    """One table of one file: its columns and its lineage.

    Attributes:
        columns: the columns it was created with.
        added: columns that ALTER TABLE added later.
    """

    table: Table
    lineage: Lineage
    columns: tuple[str, ...]
    added: tuple[str, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)

    def sql(self, name: str) -> str:
        """Return the statement that creates the table as ``name``."""
        kept = [column for column in self.table.columns if column.name in self.columns]
        counted = self.table.counted and self.lineage == "raw"
        parts = []
        for column in kept:
            text = column.declared(self.lineage)
            if column.name in self.types:
                text = text.replace(column.portable, self.types[column.name])
            if counted and column.key:
                text = f"{column.name} INTEGER PRIMARY KEY AUTOINCREMENT"
            parts.append(text)
        if self.table.key and not counted:
            parts.append(f"PRIMARY KEY ({', '.join(self.table.key)})")
        parts += [f"UNIQUE ({column})" for column in self.table.unique]
        return f"CREATE TABLE {name} ({', '.join(parts)})"

    def statements(self, name: str) -> Iterator[str]:
        """Yield the statements that create the table and add its later columns."""
        yield self.sql(name)
        for added in self.added:
            column = self.table.column(added)
            yield f"ALTER TABLE {name} ADD COLUMN {column.declared(self.lineage)}"


@dataclass(frozen=True)
class Shape:
    """A database that is not written yet, as data.

    Attributes:
        versions: the rows of the version table; None without the table.
        dotted: tables whose scopes were written, or rewritten, with dots.
        extra: statements that run last.
        newer: revisions without facts, which run after the rows are inserted.
    """

    tables: Mapping[str, Made] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()
    versions: tuple[str | None, ...] | None = None
    dotted: frozenset[str] = frozenset()
    extra: tuple[str, ...] = ()
    newer: tuple[str, ...] = ()

    def stepped(self, step: Step, lineage: Lineage) -> Shape:
        """Return the shape after one statement of an upgrade."""
        match step:
            case ("table", name):
                table = TABLES[name]
                first = tuple(c.name for c in table.columns if (name, c.name) not in ADDED_LATER)
                after = self.having(name, Made(table, lineage, first))
            case ("column", name, column):
                made = self.tables[name]
                after = self.having(name, replace(made, added=(*made.added, column)))
            case ("index", name):
                after = replace(self, indexes=(*self.indexes, name))
            case ("rewrite", name):
                after = replace(self, dotted=self.dotted | {name})
            case ("drop-index", name):
                after = replace(self, indexes=tuple(i for i in self.indexes if i != name))
            case ("drop-table", name):
                after = self.without(name)
            case ("run", revision):
                after = replace(self, newer=(*self.newer, revision))
            case ("version", revision):
                after = self.recording(revision)
            case _:
                raise ValueError(step)
        return after

    def undone(self, step: Step) -> Shape:
        """Return the shape after the downgrade of one statement."""
        match step:
            case ("column", name, column):
                return self.narrowed(name, column)
            case ("rewrite", name):
                return replace(self, dotted=self.dotted - {name})
            case (verb, name):
                return self.stepped((_OPPOSITES[verb], name), "portable")
            case _:
                raise ValueError(step)

    def having(self, name: str, made: Made) -> Shape:
        """Return the shape with a table added or replaced."""
        return replace(self, tables={**self.tables, name: made})

    def without(self, *names: str) -> Shape:
        """Return the shape without some tables and their indexes."""
        return replace(
            self,
            tables={name: made for name, made in self.tables.items() if name not in names},
            indexes=tuple(i for i in self.indexes if INDEXES[i].table not in names),
        )

    def renamed(self, old: str, new: str) -> Shape:
        """Return the shape with a table renamed, without its indexes."""
        return self.without(old).having(new, self.tables[old])

    def narrowed(self, name: str, *lacking: str) -> Shape:
        """Return the shape with a table that lacks some columns."""
        made = self.tables[name]
        return self.having(
            name,
            replace(
                made,
                columns=tuple(c for c in made.columns if c not in lacking),
                added=tuple(c for c in made.added if c not in lacking),
            ),
        )

    def recording(self, *versions: str | None) -> Shape:
        """Return the shape with these rows in the version table."""
        return replace(self, versions=versions)

    def unversioned(self) -> Shape:
        """Return the shape without a version table."""
        return replace(self, versions=None)

    def also(self, *statements: str) -> Shape:
        """Return the shape with more statements, of an operator or a crash."""
        return replace(self, extra=(*self.extra, *statements))

    def script(self) -> Iterator[str]:
        """Yield the statements that create the tables and indexes."""
        if self.versions is not None:
            yield VERSION_TABLE
        for name, made in self.tables.items():
            yield from made.statements(name)
        for index in self.indexes:
            facts = INDEXES[index]
            yield f"CREATE INDEX {index} ON {facts.table} ({facts.columns})"

    def write(self, path: Path, pragmas: Iterable[str] = (), *, rows: bool = True) -> None:
        """Create the file, with rows in every table unless ``rows`` is false."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
            self.fill(connection, rows=rows)

    def fill(self, connection: sqlite3.Connection, *, rows: bool = True) -> None:
        """Run the script and insert the rows on a connection in autocommit mode."""
        connection.execute("BEGIN")
        for statement in self.script():
            connection.execute(statement)
        if self.versions is not None:
            connection.executemany(
                "INSERT INTO alembic_version VALUES (?)", [(v,) for v in self.versions]
            )
        if rows:
            for name, made in self.tables.items():
                separator = "." if made.table.name in self.dotted else ":"
                columns = (*made.columns, *made.added)
                for row in contents.rows(separator)[made.table.name]:
                    insert(connection, name, {c: v for c, v in row.items() if c in columns})
        later = [s for revision in self.newer for s in revisions.statements(revision)]
        for statement in (*filter(self._has_table_of, later), *self.extra):
            connection.execute(statement)
        connection.execute("COMMIT")

    def _has_table_of(self, statement: str) -> bool:
        """Return False for an index or a column of a table that was removed or renamed."""
        named = re.match(r"(?:CREATE INDEX .* ON|ALTER TABLE) (\w+)", statement)
        return named is None or named[1] in self.tables or named[1] not in TABLES


def insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> None:
    """Insert one row; missing columns take their default."""
    connection.execute(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' for _ in row)})",
        tuple(row.values()),
    )


def walk(shape: Shape, lineage: Lineage, *steps: str) -> Iterator[Shape]:
    """Yield the shape after each statement: what a kill before the next one leaves."""
    for revision in steps:
        for step in (*STEPS[revision], ("version", revision)):
            shape = shape.stepped(step, lineage)
            yield shape


def at(revision: str, lineage: Lineage = "raw") -> Shape:
    """Return the complete schema of a revision, with its version row, in one lineage.

    Raw releases ended at 006: later tables are portable in every file.
    """
    shape = Shape(versions=())
    for passed in revisions.ALL[: revisions.ALL.index(revision) + 1]:
        *_, shape = walk(shape, lineage if passed <= "006" else "portable", passed)
    return shape


def at_head(path: Path, *pragmas: str) -> None:
    """Write a database that the program itself has migrated to head, with rows in every table."""
    at("010", "portable").write(path)
    prepare(path)
    for made in backup_files.automatic_backups(path):
        backup_files.discard(made)
    with closing(sqlite3.connect(path)) as connection:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
