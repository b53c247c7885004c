"""Read the secrets of a database in pages, on each engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from sqlalchemy import ColumnElement, column, literal_column

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.migrate.classify import TEMPORARY
from nextcloud_mcp_server.schema.structure import ENCRYPTED, Structure, columns_there, quoted
from nextcloud_mcp_server.schema.tables import metadata

if TYPE_CHECKING:
    import sqlite3

    from nextcloud_mcp_server.backends.postgresql.catalog import Place
    from nextcloud_mcp_server.backends.postgresql.database import PostgresDatabase

#: The rows of one page of a column.
PAGE: Final = 500

#: Less than every rowid but one, which SQLite never chooses.
_FIRST: Final = -(2**63)

#: The column that names a row to people.
_NAMES: Final = {"oauth_clients": "client_id"}


class Secret(NamedTuple):
    """One encrypted value: its row, the name of the row, and the value as it is stored."""

    at: Any
    name: object
    value: bytes | str


class Reader(Protocol):
    """Reads secrets. Each page is a transaction of its own: a long one would hold others up."""

    columns: Sequence[tuple[str, str]]

    def total(self) -> int:
        """Return the number of secrets."""

    def pages(self, table: str, secret: str) -> Iterator[list[Secret]]:
        """Yield the secrets of a column, in pages of :data:`PAGE`, by their row."""

    def row(self, table: str) -> ColumnElement[Any]:
        """Return what :attr:`Secret.at` is compared with in an UPDATE."""


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
            wanted = [(TEMPORARY + t if t in adopted else t, c) for t, c in ENCRYPTED]
            source, _ = stack.enter_context(readable(database.location))
            stack.enter_context(naming(source))
            connection = stack.enter_context(closing(connect_read_only(source)))
            yield _FileReader(connection, structure, columns_there(structure, wanted))
        else:
            yield stack.enter_context(_server(database))


@contextmanager
def _server(database: Any) -> Iterator[_ServerReader]:
    made: PostgresDatabase = database
    with made.reading(snapshot=False) as (place, _):
        yield _ServerReader(place, columns_there(place.structure(), ENCRYPTED))


class _FileReader:
    def __init__(
        self,
        connection: sqlite3.Connection,
        structure: Structure,
        columns: Sequence[tuple[str, str]],
    ) -> None:
        self._connection = connection
        self._structure = structure
        self.columns = columns

    def total(self) -> int:
        numbers = (
            self._connection.execute(
                f"SELECT count({quoted(c)}) FROM {quoted(t)} NOT INDEXED"  # noqa: S608 - our own names
            ).fetchone()[0]
            for t, c in self.columns
        )
        return sum(numbers)

    def pages(self, table: str, secret: str) -> Iterator[list[Secret]]:
        name = _NAMES.get(table.removeprefix(TEMPORARY), "user_id")
        there = name in self._structure.tables[table].columns
        named, value = quoted(name) if there else "NULL", quoted(secret)
        query = (
            f"SELECT rowid, {named}, {value} FROM {quoted(table)} NOT INDEXED "  # noqa: S608 - our own names
            f"WHERE rowid > ? AND {value} IS NOT NULL ORDER BY rowid LIMIT {PAGE}"
        )
        after = _FIRST
        while rows := self._connection.execute(query, (after,)).fetchall():
            after = rows[-1][0]
            yield [
                Secret(at, name, value if isinstance(value, bytes) else str(value))
                for at, name, value in rows
            ]

    def row(self, table: str) -> ColumnElement[Any]:
        return literal_column("rowid")


class _ServerReader:
    def __init__(self, place: Place, columns: Sequence[tuple[str, str]]) -> None:
        self._place = place
        self.columns = columns

    def total(self) -> int:
        numbers = (
            self._place.rows(f"SELECT count({quoted(c)}) FROM {self._place.table(t)}")[0][0]  # noqa: S608 - quoted
            for t, c in self.columns
        )
        return sum(numbers)

    def pages(self, table: str, secret: str) -> Iterator[list[Secret]]:
        key, name, value = self._key(table), _NAMES.get(table, "user_id"), quoted(secret)
        begin = (
            f"SELECT {key}, {name}, {value} FROM {self._place.table(table)} "  # noqa: S608 - quoted
            f"WHERE {value} IS NOT NULL"
        )
        end = f"ORDER BY {key} LIMIT {PAGE}"
        rows = self._place.rows(f"{begin} {end}")
        while rows:
            yield [Secret(at, name, bytes(value)) for at, name, value in rows]
            rows = self._place.rows(f"{begin} AND {key} > %s {end}", [rows[-1][0]])

    def row(self, table: str) -> ColumnElement[Any]:
        return column(self._key(table))

    def _key(self, table: str) -> str:
        [key] = metadata.tables[table].primary_key
        return str(key.name)
