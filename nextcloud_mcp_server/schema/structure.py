"""The structure of a database: names of tables, columns and indexes, and no more.

A database is told by its structure, never by the text of its SQL: two type lineages are
in the field at the same revision. Names are lower-cased, as SQLite compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from types import MappingProxyType
from typing import Any, Final, NamedTuple

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

#: Alembic's own table, which no comparison counts.
VERSION_TABLE: Final = "alembic_version"

#: The columns that hold Fernet tokens, as (table, column).
ENCRYPTED: Final = (
    ("refresh_tokens", "encrypted_token"),
    ("app_passwords", "encrypted_password"),
    ("oauth_clients", "encrypted_client_secret"),
    ("oauth_clients", "encrypted_registration_access_token"),
    ("login_flow_sessions", "encrypted_poll_token"),
)


class Column(NamedTuple):
    """One column.

    Attributes:
        required: NOT NULL without a default, so that every writer must fill it.
        key: its place in the primary key, from 1; 0 outside the key.
        declaration: how to add it to a table that lacks it (type and default); empty
            where it was read from a file.
    """

    required: bool = False
    key: int = 0
    declaration: str = ""


class Table(NamedTuple):
    """One table: its columns by name, and the statement that makes it (when known)."""

    columns: Mapping[str, Column] = _NOTHING
    sql: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The names of the primary key's columns, in order."""
        members = [(column.key, name) for name, column in self.columns.items() if column.key]
        return tuple(name for _, name in sorted(members))

    @property
    def required(self) -> frozenset[str]:
        """The columns without which a table is not this one: required ones and the key."""
        return frozenset(n for n, c in self.columns.items() if c.required or c.key)


class Structure(NamedTuple):
    """All tables, the indexes that somebody named, and other names that are taken.

    Attributes:
        tables: tables by name.
        indexes: the statement that makes each index (empty where unknown), by name.
        owners: the table of each index, by the index's name.
        others: names of views, which stand in the way of a table of the same name.
    """

    tables: Mapping[str, Table] = _NOTHING
    indexes: Mapping[str, str] = _NOTHING
    owners: Mapping[str, str] = _NOTHING
    others: frozenset[str] = frozenset()

    @property
    def own_tables(self) -> frozenset[str]:
        """Every table but SQLite's and Alembic's own bookkeeping."""
        return frozenset(
            name
            for name in self.tables
            if name != VERSION_TABLE and not name.startswith(("sqlite_", "_alembic_tmp_"))
        )

    def without(self, tables: Set[str]) -> Structure:
        """The same structure without some tables and their indexes."""
        owners = {index: table for index, table in self.owners.items() if table not in tables}
        return Structure(
            {name: table for name, table in self.tables.items() if name not in tables},
            {index: self.indexes[index] for index in owners},
            owners,
            self.others,
        )


class Gaps(NamedTuple):
    """What a revision has and a file lacks.

    Attributes:
        tables: missing tables.
        columns: missing columns, as (table, column), of tables that are there.
        indexes: missing indexes.
    """

    tables: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    indexes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """True when something is missing."""
        return bool(self.tables or self.columns or self.indexes)

    def __str__(self) -> str:
        """The names, for a person."""
        parts = [
            *(f"table {name}" for name in self.tables),
            *(f"column {table}.{column}" for table, column in self.columns),
            *(f"index {name}" for name in self.indexes),
        ]
        return ", ".join(parts) or "nothing"


def gaps(there: Structure, wanted: Structure) -> Gaps:
    """What ``wanted`` has and ``there`` lacks. What is surplus is somebody's, and no gap."""
    columns = [
        (name, column)
        for name, table in wanted.tables.items()
        if name in there.tables and there.tables[name] is not table
        for column in table.columns
        if column not in there.tables[name].columns
    ]
    return Gaps(
        tables=_missing(wanted.tables, there.tables),
        columns=tuple(columns),
        indexes=_missing(wanted.indexes, there.indexes),
    )


def altered(before: Structure, after: Structure) -> tuple[str, ...]:
    """Columns (``table.column``) and indexes that both have, and that are not the same."""
    columns = [
        f"{name}.{column}"
        for name, table in after.tables.items()
        if name in before.tables
        for column, facts in table.columns.items()
        if before.tables[name].columns.get(column, facts) != facts
    ]
    # The statement of an index is kept as it was written, white space and all.
    indexes = [
        name
        for name, sql in after.indexes.items()
        if before.indexes.get(name, sql).split() != sql.split()
    ]
    return (*columns, *indexes)


def _missing(wanted: Iterable[str], there: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(name for name in wanted if name not in there)
