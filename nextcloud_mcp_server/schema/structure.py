"""The structure of a database: the names of its tables, columns and indexes.

A revision is recognized by its structure, never by the SQL text: databases of the same
revision exist with different column types. Names are in lower case, because SQLite
ignores their case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from types import MappingProxyType
from typing import Any, Final, NamedTuple

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})

#: Alembic's own table, which comparisons ignore.
VERSION_TABLE: Final = "alembic_version"

#: The table of the journal, which this program alone makes.
JOURNAL_TABLE: Final = "migration_journal"

#: The columns that released versions encrypt, as (table, column).
ENCRYPTED: Final = (
    ("refresh_tokens", "encrypted_token"),
    ("app_passwords", "encrypted_password"),
    ("oauth_clients", "encrypted_client_secret"),
    ("oauth_clients", "encrypted_registration_access_token"),
    ("login_flow_sessions", "encrypted_poll_token"),
)

#: The table of the registered keys.
KEYS: Final = "keys"

#: Tables that are migrated and kept, although no statement of this program uses them.
UNUSED: Final = frozenset({"batch_ocr_jobs", "document_paths", "schema_version", "usage_events"})

#: How the names of tables begin that replication and administration tools add to any database.
BOOKKEEPING: Final = (
    "_litestream_",
    # cr-sqlite, and Corrosion, which is built on it
    *("crsql_", "__crsql_", "__corro_"),
    # Cloudflare D1 and libSQL
    *("_cf_", "d1_migrations", "libsql_"),
    # Turso, Marmot and rqlite
    *("turso_cdc", "__marmot__", "_rqlite_"),
    # sqlite-utils and its migrations
    *("_counts", "_sqlite_migrations"),
    "android_metadata",
    # PowerSync, SpatiaLite
    *("ps_migration", "spatial_ref_sys"),
)


class Column(NamedTuple):
    """One column.

    Attributes:
        required: NOT NULL without a default.
        key: its position in the primary key, from 1; 0 outside the key.
        declaration: the type and default for adding it to a table; empty if it was read
            from a file.
    """

    required: bool = False
    key: int = 0
    declaration: str = ""


class Table(NamedTuple):
    """One table: its columns by name, and the statement that creates it, if known."""

    columns: Mapping[str, Column] = _NOTHING
    sql: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """The names of the columns of the primary key, in order."""
        members = [(column.key, name) for name, column in self.columns.items() if column.key]
        return tuple(name for _, name in sorted(members))

    @property
    def required(self) -> frozenset[str]:
        """The columns by which the table is recognized: required ones and the key."""
        return frozenset(n for n, c in self.columns.items() if c.required or c.key)


class Structure(NamedTuple):
    """All tables, all named indexes, and other names that are in use.

    Attributes:
        tables: tables by name.
        indexes: the statement that creates each index (empty if unknown), by name.
        owners: the table of each index, by the name of the index.
        others: names of views, because a table cannot have the same name.
        triggers: the table of each trigger, by the name of the trigger.
    """

    tables: Mapping[str, Table] = _NOTHING
    indexes: Mapping[str, str] = _NOTHING
    owners: Mapping[str, str] = _NOTHING
    others: frozenset[str] = frozenset()
    triggers: Mapping[str, str] = _NOTHING

    @property
    def own_tables(self) -> frozenset[str]:
        """Every table except those of SQLite and Alembic."""
        return frozenset(
            name
            for name in self.tables
            if name != VERSION_TABLE and not name.startswith(("sqlite_", "_alembic_tmp_"))
        )

    @property
    def strangers(self) -> frozenset[str]:
        """Every table and view except those of SQLite, Alembic and :data:`BOOKKEEPING`."""
        names = self.own_tables | self.others
        return frozenset(name for name in names if not name.startswith(BOOKKEEPING))

    def without(self, tables: Set[str]) -> Structure:
        """Return the same structure without some tables and their indexes."""
        owners = {index: table for index, table in self.owners.items() if table not in tables}
        return Structure(
            {name: table for name, table in self.tables.items() if name not in tables},
            {index: self.indexes[index] for index in owners},
            owners,
            self.others,
            self.triggers,
        )


class Gaps(NamedTuple):
    """The parts of a revision that are missing in a database.

    Attributes:
        tables: missing tables.
        columns: missing columns of existing tables, as (table, column).
        indexes: missing indexes.
    """

    tables: tuple[str, ...] = ()
    columns: tuple[tuple[str, str], ...] = ()
    indexes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return True if something is missing."""
        return bool(self.tables or self.columns or self.indexes)

    def __str__(self) -> str:
        """Return the names of the missing parts."""
        parts = [
            *(f"table {name}" for name in self.tables),
            *(f"column {table}.{column}" for table, column in self.columns),
            *(f"index {name}" for name in self.indexes),
        ]
        return ", ".join(parts) or "nothing"


def gaps(actual: Structure, wanted: Structure) -> Gaps:
    """Return the parts of ``wanted`` that are missing in ``actual``. Extra parts are ignored."""
    columns = [
        (name, column)
        for name, table in wanted.tables.items()
        if name in actual.tables and actual.tables[name] is not table
        for column in table.columns
        if column not in actual.tables[name].columns
    ]
    return Gaps(
        tables=_missing(wanted.tables, actual.tables),
        columns=tuple(columns),
        indexes=_missing(wanted.indexes, actual.indexes),
    )


def altered(before: Structure, after: Structure) -> tuple[str, ...]:
    """Return the columns (``table.column``) and indexes that both have but that differ."""
    columns = [
        f"{name}.{column}"
        for name, table in after.tables.items()
        if name in before.tables
        for column, facts in table.columns.items()
        if before.tables[name].columns.get(column, facts) != facts
    ]
    # SQLite keeps the white space of the statement of an index.
    indexes = [
        name
        for name, sql in after.indexes.items()
        if before.indexes.get(name, sql).split() != sql.split()
    ]
    return (*columns, *indexes)


def columns_there(structure: Structure, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those of the ``wanted`` (table, column) that a database has."""
    tables = structure.tables
    return [(t, c) for t, c in wanted if t in tables and c in tables[t].columns]


def quoted(name: str) -> str:
    """Quote ``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _missing(wanted: Iterable[str], actual: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(name for name in wanted if name not in actual)
