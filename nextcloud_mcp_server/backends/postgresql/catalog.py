"""Read the tables of this program from the catalog of PostgreSQL.

Only names of ours are read: the schema may be shared with other applications.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.keys import RegisteredKey, has_keys, registered_keys
from nextcloud_mcp_server.backends.postgresql.connect import Facts, Server, read_facts
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.schema.structure import (
    ENCRYPTED,
    JOURNAL_TABLE,
    KEYS,
    UNUSED,
    VERSION_TABLE,
    Column,
    Structure,
    Table,
    columns_there,
    quoted,
)
from nextcloud_mcp_server.secret import SecretBytes

if TYPE_CHECKING:
    from psycopg import Connection

    from nextcloud_mcp_server.schema.history import History

#: Alembic's prefix for the copy of a table that is recreated.
_TEMPORARY: Final = "_alembic_tmp_"

#: Not ``information_schema``, which hides what this role may not use.
_COLUMNS: Final = """
SELECT c.relname, c.relkind, a.attname,
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '',
       coalesce(pg_catalog.array_position(k.conkey, a.attnum), 0), t.typcategory
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a
    ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
ORDER BY c.relname, a.attnum
"""

_ALL: Final = """
SELECT c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

#: Without those of constraints, which their tables bring along.
_INDEXES: Final = """
SELECT i.relname, t.relname, CASE WHEN %s THEN pg_catalog.pg_get_indexdef(i.oid) ELSE '' END
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = x.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
WHERE n.nspname = %s AND t.relname = ANY (%s) AND NOT EXISTS (
    SELECT 1 FROM pg_catalog.pg_constraint c
    WHERE c.conindid = i.oid AND c.contype IN ('p', 'u', 'x'))
ORDER BY i.relname
"""

_TRIGGERS: Final = """
SELECT g.tgname, t.relname
FROM pg_catalog.pg_trigger g
JOIN pg_catalog.pg_class t ON t.oid = g.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
WHERE n.nspname = %s AND t.relname = ANY (%s) AND NOT g.tgisinternal
"""

_GRANTS: Final = """
SELECT c.relname, p.privilege, s.relname
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('USAGE')) p (privilege)
LEFT JOIN pg_catalog.pg_depend d
    ON p.privilege = 'USAGE' AND d.refclassid = 'pg_catalog.pg_class'::regclass
    AND d.refobjid = c.oid AND d.deptype IN ('a', 'i')
LEFT JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('r', 'p')
  AND CASE WHEN p.privilege <> 'USAGE'
           THEN NOT pg_catalog.has_table_privilege(c.oid, p.privilege)
           WHEN s.oid IS NULL THEN false
           ELSE NOT pg_catalog.has_sequence_privilege(s.oid, 'USAGE') END
ORDER BY c.relname, p.privilege
"""


class Place(NamedTuple):
    """The tables of this program in one schema.

    Attributes:
        connection: in a transaction, or in autocommit.
        schema: the name of the schema.
        history: the revisions, with their tables.
        definitions: whether the SQL of indexes is read. Not without the lock: it is not of the
            moment of the transaction, and fails if another process has dropped the index since.
    """

    connection: Connection[Any]
    schema: str
    history: History
    definitions: bool = True

    @property
    def names(self) -> list[str]:
        """Every name of ours: tables, copies of an interrupted recreation, the version table."""
        if self.history.unknown_structures:
            # The tables of a developer's new revision are not known yet.
            return [name for (name,) in self.rows(_ALL, [self.schema])]
        tables = list(self.history.shapes)
        return [*tables, *(f"{_TEMPORARY}{name}" for name in tables), VERSION_TABLE]

    def table(self, name: str) -> str:
        """Return the qualified name of a table, as SQL."""
        return f"{quoted(self.schema)}.{quoted(name)}"

    def rows(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Execute a statement, which ends before this returns, and return its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def structure(self) -> Structure:
        """Read the names of the tables, columns, indexes and triggers."""
        given = [self.schema, self.names]
        columns: dict[str, dict[str, Column]] = {}
        others = set()
        kinds: dict[str, dict[str, str]] = {}
        for name, kind, column, required, key, category in self.rows(_COLUMNS, given):
            if kind not in {"r", "p"}:
                others.add(name)
                continue
            own = columns.setdefault(name, {})
            if column is not None:
                own[column] = Column(required, key)
                kinds.setdefault(name, {})[column] = category
        indexes = self.rows(_INDEXES, [self.definitions, *given])
        return Structure(
            {n: self._known(n, Table(found), kinds.get(n, {})) for n, found in columns.items()},
            {index: sql for index, _, sql in indexes},
            {index: table for index, table, _ in indexes},
            frozenset(others),
            dict(self.rows(_TRIGGERS, given)),
        )

    def _known(self, name: str, found: Table, kinds: Mapping[str, str]) -> Table:
        """Return the table of a revision that is the same; otherwise ``found``."""
        facts = _facts(found)
        for shape in reversed(self.history.shapes.get(name, ())):
            if _facts(shape) == facts:
                return found if _other_kinds(shape, kinds) else shape
        return found

    def unusable(self, wanted: Mapping[str, Table]) -> dict[str, str]:
        """Return the tables of ``wanted`` with a column of another kind of type, and which."""
        kinds: dict[str, dict[str, str]] = {}
        for name, _, column, _, _, category in self.rows(_COLUMNS, [self.schema, list(wanted)]):
            if column is not None:
                kinds.setdefault(name, {})[column] = category
        found = {name: _other_kinds(wanted[name], kinds.get(name, {})) for name in wanted}
        return {
            name: f"the type of {', '.join(columns)} was changed"
            for name, columns in found.items()
            if columns
        }

    def other_schemas(self) -> list[str]:
        """Return the schemas besides this one that have the tables of a store."""
        found = self.rows(
            "SELECT n.nspname FROM pg_catalog.pg_class c "
            "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relname IN (%s, %s) AND c.relkind = 'r' AND n.nspname <> %s "
            "GROUP BY n.nspname HAVING count(*) = 2 ORDER BY n.nspname LIMIT 3",
            ["refresh_tokens", JOURNAL_TABLE, self.schema],
        )
        return [name for (name,) in found]

    def versions(self) -> tuple[str | None, ...]:
        """Read the rows of the version table."""
        rows = self.rows(f"SELECT version_num::text FROM {self.table(VERSION_TABLE)}")  # noqa: S608 - quoted
        return tuple(row[0] for row in rows)

    def snapshot(self, *, samples: bool) -> Snapshot:
        """Read what an inspection needs."""
        structure = self.structure()
        versions: tuple[str | None, ...] | None = None
        version_column = True
        if table := structure.tables.get(VERSION_TABLE):
            version_column = "version_num" in table.columns
            if version_column:
                versions = self.versions()
        there = bool(structure.tables)
        found = Snapshot(structure, versions, version_column, exists=there)
        if strange := self._strange(found):
            return found._replace(damage="foreign", detail=strange)
        if not samples:
            return found
        return found._replace(samples=self._samples(structure), keys=self._keys(structure))

    def _strange(self, found: Snapshot) -> str:
        """Return why the version table is another application's; empty if it may be ours."""
        unknown = [row for row in found.versions or () if row and row not in self.history]
        if not unknown or found.structure.own_tables:
            return ""
        return (
            f"its schema {self.schema} has the {VERSION_TABLE} of another application, and no "
            "table of this program: give the store a schema of its own"
        )

    def _samples(self, structure: Structure) -> tuple[bytes, ...]:
        """Return one or two encrypted values of each column, each once."""
        there = columns_there(structure, ENCRYPTED)
        if not there:
            return ()
        # An operator may have changed the type of one.
        queries = [f"{self._secrets(*one)} LIMIT 2" for one in there]
        values = chain.from_iterable(map(_raw, self.rows(query)) for query in queries)
        return tuple(dict.fromkeys(values))

    def _keys(self, structure: Structure) -> tuple[RegisteredKey, ...]:
        if not has_keys(structure):
            return ()
        rows = self.rows(registered_keys(self.table(KEYS)))
        return tuple(RegisteredKey.of(row) for row in rows)

    def _secrets(self, table: str, column: str) -> str:
        name = quoted(column)
        return f"SELECT {name} FROM {self.table(table)} WHERE {name} IS NOT NULL"  # noqa: S608 - quoted

    def samples(self, columns: Sequence[tuple[str, str]], limit: int | None) -> Iterator[bytes]:
        """Read up to ``limit`` encrypted values of each column that is there, in a transaction."""
        for table, column in columns_there(self.structure(), columns):
            query = self._secrets(table, column)
            # On the server, because there may be millions.
            with self.connection.cursor(name="secrets") as cursor:
                cursor.execute(query if limit is None else f"{query} LIMIT {limit}")
                yield from map(_raw, cursor)

    def missing_grants(self) -> Mapping[str, list[str]]:
        """Return the privileges that this role lacks, each with its tables and sequences."""
        found: dict[str, list[str]] = {}
        for table, privilege, sequence in self.rows(_GRANTS, [self.schema, self.names]):
            found.setdefault(privilege, []).append(self.table(sequence or table))
        return found


#: The category of each type that the revisions declare, as ``pg_type.typcategory`` has it.
_CATEGORIES: Final = {
    **dict.fromkeys(("TEXT", "VARCHAR"), "S"),
    **dict.fromkeys(("BIGINT", "INTEGER", "SERIAL", "FLOAT"), "N"),
    "BYTEA": "U",
    "BOOLEAN": "B",
    "TIMESTAMP": "D",
}


def _facts(table: Table) -> dict[str, tuple[bool, int]]:
    """Return what is compared of each column; one in the key always has a value."""
    return {name: (c.required or bool(c.key), c.key) for name, c in table.columns.items()}


def _other_kinds(table: Table, kinds: Mapping[str, str]) -> list[str]:
    """Return the columns whose type is of another category than the revision's."""
    declared = dict(re.findall(r'(?:^\s*|ADD COLUMN )"?(\w+)"? ([A-Z]+)', table.sql, re.MULTILINE))
    wanted = {column: _CATEGORIES.get(kind, "") for column, kind in declared.items()}
    return sorted(
        column for column, kind in kinds.items() if wanted.get(column) and wanted[column] != kind
    )


def connected(server: Server, connection: Connection[Any], history: History) -> tuple[Place, Facts]:
    """Return the place and the facts of a new connection.

    Raises:
        TokenStorageError: ``no-schema`` or ``unsupported-database``.
    """
    facts = read_facts(connection, server.url)
    return Place(connection, facts.schema, history), facts


def needed_grants(place: Place) -> dict[str, list[str]]:
    """Return what this role lacks to serve: each privilege with its tables or sequences."""
    # A developer's new revision is not known yet.
    known = place.history.structures
    head = max(known, key=place.history.revisions.index, default="")
    tables = known[head].tables if head else {}
    used = {place.table(name) for name in tables if name not in UNUSED}
    read = {place.table(VERSION_TABLE), place.table(JOURNAL_TABLE)}
    found = {}
    for privilege, names in place.missing_grants().items():
        wanted = used | read if privilege == "SELECT" else used - read
        if kept := [n for n in names if n in wanted or privilege == "USAGE"]:
            found[privilege] = kept
    return found


def grants_text(place: Place, missing: Mapping[str, Sequence[str]]) -> str:
    """Return what is missing, with the statements to type."""
    [(role,)] = place.rows("SELECT current_user")
    typed = "; ".join(
        f"GRANT {privilege} ON {'SEQUENCE ' if privilege == 'USAGE' else ''}{', '.join(names)} "
        f"TO {quoted(role)}"
        for privilege, names in missing.items()
    )
    return f"the role {role} lacks {', '.join(missing)}: {typed}"


def why_read_only(place: Place, facts: Facts, url: ServerUrl) -> str:
    """Return why a store on this place could only read; empty if it can write.

    Raises:
        TokenStorageError: ``missing-grant`` if it could not even read.
    """
    missing = needed_grants(place)
    if "SELECT" in missing:
        lacks, _, typed = grants_text(place, missing).partition(": ")
        raise TokenStorageError(
            f"{url} cannot be used, because {lacks}.",
            code="missing-grant",
            remedy=f"As the owner of the tables: {typed};",
        )
    if facts.read_only:
        return facts.read_only
    return grants_text(place, missing) if missing else ""


def _raw(row: Sequence[object]) -> SecretBytes:
    """Return the bytes of a value, hidden: an id of a released version is not encrypted."""
    [value] = row
    if isinstance(value, bytes | memoryview):
        return SecretBytes(value)
    return SecretBytes(str(value).encode("utf-8", "replace"))
