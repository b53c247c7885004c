"""Read the rows with secrets in pages, on each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sqlalchemy import ColumnElement, column, literal_column

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.migrate.classify import TEMPORARY
from nextcloud_mcp_server.schema.secrets import HASHED, SECRETS, hiding
from nextcloud_mcp_server.schema.structure import Structure, quoted
from nextcloud_mcp_server.schema.tables import metadata
from nextcloud_mcp_server.secret import SecretTuple

if TYPE_CHECKING:
    import sqlite3

    from nextcloud_mcp_server.backends.postgresql.catalog import Place
    from nextcloud_mcp_server.backends.postgresql.database import PostgresDatabase

#: The rows of one page.
PAGE: Final = 500

#: Less than every rowid but one, which SQLite never chooses.
_FIRST: Final = -(2**63)


def _columns() -> dict[str, tuple[str, ...]]:
    """Return the columns of each table that are read: secrets, ids, and what names the row."""
    found: dict[str, dict[str, None]] = {}
    for secret in SECRETS:
        found.setdefault(secret.table, {}).update(
            dict.fromkeys((secret.column, *secret.bound, "user_id", "client_id"))
        )
    for table, name in HASHED:
        found.setdefault(table, {}).update(dict.fromkeys((name, "user_id")))
    return {
        table: tuple(name for name in names if name in metadata.tables[table].c)
        for table, names in found.items()
    }


#: The tables with secrets or hashed ids, with the columns that are read.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = _columns()


class Stored(NamedTuple):
    """A row: where it is, and its columns of :data:`COLUMNS`; None for one that is missing."""

    at: Any
    row: Mapping[str, Any]


class Reader(Protocol):
    """Reads rows. Each page is a transaction of its own: a long one would hold others up."""

    @property
    def tables(self) -> Sequence[str]:
        """The tables that have a secret or a hashed id."""

    def total(self) -> int:
        """Return the number of rows."""

    def pages(self, table: str) -> Iterator[list[Stored]]:
        """Yield the rows of a table, in pages of :data:`PAGE`, by their place."""

    def place(self, table: str) -> ColumnElement[Any]:
        """Return what :attr:`Stored.at` is compared with in an UPDATE."""


@contextmanager
def reading(
    database: Database, structure: Structure, adopted: Sequence[str] = ()
) -> Iterator[Reader]:
    """Open a reader of an existing database.

    Args:
        database: the database.
        structure: what was read from it.
        adopted: tables that the next start renames back from the copy of a recreation.
    """
    with ExitStack() as stack:
        if isinstance(database.location, Path):
            source, _ = stack.enter_context(readable(database.location))
            stack.enter_context(naming(source))
            connection = stack.enter_context(closing(connect_read_only(source)))
            yield file_reader(connection, structure, adopted)
        else:
            yield stack.enter_context(_server(database))


def file_reader(
    connection: sqlite3.Connection, structure: Structure, adopted: Sequence[str] = ()
) -> Reader:
    """Return a reader of an open file; see :func:`reading`."""
    tables = [TEMPORARY + table if table in adopted else table for table in COLUMNS]
    return _FileReader(connection, structure, tables)


@contextmanager
def _server(database: Any) -> Iterator[_ServerReader]:
    made: PostgresDatabase = database
    with made.reading(snapshot=False) as (place, _):
        yield _ServerReader(place, place.structure())


def _there(structure: Structure, table: str) -> list[str]:
    """Return the columns of a table that are read and exist; none if it has no secret and no id."""
    wanted = COLUMNS[table.removeprefix(TEMPORARY)]
    found = structure.tables.get(table)
    return [] if found is None else [name for name in wanted if name in found.columns]


def _has_values(structure: Structure, table: str) -> bool:
    there = set(_there(structure, table))
    held = [(s.table, s.column) for s in SECRETS] + list(HASHED)
    return any(of == table.removeprefix(TEMPORARY) and name in there for of, name in held)


def _stored(table: str, key: str, names: Sequence[str]) -> Callable[[Sequence[Any]], Stored]:
    """Return what makes a :class:`Stored` of a key and the values of ``names``, each hidden."""
    known = table.removeprefix(TEMPORARY)
    absent = dict.fromkeys(COLUMNS[known])
    hide_key, *hides = (hiding(known, name) or _as_it_is for name in (key, *names))

    def stored(values: Sequence[Any]) -> Stored:
        values = SecretTuple(values)
        found = zip(names, hides, values[1:], strict=True)
        return Stored(hide_key(values[0]), absent | {name: hide(v) for name, hide, v in found})

    return stored


def _as_it_is(value: Any) -> Any:
    return value


class _FileReader:
    def __init__(
        self, connection: sqlite3.Connection, structure: Structure, tables: Sequence[str]
    ) -> None:
        self._connection = connection
        self._structure = structure
        self.tables: Sequence[str] = [table for table in tables if _has_values(structure, table)]

    def total(self) -> int:
        numbers = (
            self._connection.execute(f"SELECT count(*) FROM {quoted(t)} NOT INDEXED").fetchone()[0]  # noqa: S608 - our own names
            for t in self.tables
        )
        return sum(numbers)

    def pages(self, table: str) -> Iterator[list[Stored]]:
        names = _there(self._structure, table)
        query = (
            f"SELECT rowid, {', '.join(map(quoted, names))} FROM {quoted(table)} NOT INDEXED "  # noqa: S608 - our own names
            f"WHERE rowid > ? ORDER BY rowid LIMIT {PAGE}"
        )
        stored = _stored(table, "rowid", names)
        after = _FIRST
        # No variable has a row that is not hidden: the next one may be damaged.
        while page := list(map(stored, self._connection.execute(query, (after,)))):
            yield page
            after = page[-1].at

    def place(self, table: str) -> ColumnElement[Any]:
        return literal_column("rowid")


class _ServerReader:
    def __init__(self, place: Place, structure: Structure) -> None:
        self._place = place
        self._structure = structure
        self.tables: Sequence[str] = [table for table in COLUMNS if _has_values(structure, table)]

    def total(self) -> int:
        numbers = (
            self._place.rows(f"SELECT count(*) FROM {self._place.table(t)}")[0][0]  # noqa: S608 - quoted
            for t in self.tables
        )
        return sum(numbers)

    def pages(self, table: str) -> Iterator[list[Stored]]:
        key, names = self._key(table), _there(self._structure, table)
        begin = (
            f"SELECT {quoted(key)}, {', '.join(map(quoted, names))} FROM {self._place.table(table)}"  # noqa: S608 - quoted
        )
        end = f"ORDER BY {quoted(key)} LIMIT {PAGE}"
        stored = _stored(table, key, names)
        page = list(map(stored, self._place.rows(f"{begin} {end}")))
        while page:
            yield page
            following = f"{begin} WHERE {quoted(key)} > %s {end}"
            page = list(map(stored, self._place.rows(following, [page[-1].at])))

    def place(self, table: str) -> ColumnElement[Any]:
        return column(self._key(table))

    def _key(self, table: str) -> str:
        [key] = metadata.tables[table].primary_key
        return str(key.name)
