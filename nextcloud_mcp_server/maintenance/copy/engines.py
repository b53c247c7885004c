"""Read and write the rows of each engine, in batches."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from nextcloud_mcp_server.backends.base import Database, Transaction
from nextcloud_mcp_server.backends.sqlite.catalog import read_structure
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.maintenance.copy.values import Boolean, Moment, Part
from nextcloud_mcp_server.schema.structure import Structure, Table, quoted
from nextcloud_mcp_server.secret import SecretList, SecretTuple

if TYPE_CHECKING:
    import psycopg

    from nextcloud_mcp_server.backends.postgresql.catalog import Place

#: The rows of a batch. A token can have 16 KB.
BATCH: Final = 2000

Rows = Sequence[tuple[Any, ...]]


class Source(Protocol):
    """A database as of one moment."""

    def structure(self) -> Structure:
        """Return its tables, columns and indexes, those of the operator as well."""

    def count(self, table: str) -> int | None:
        """Return the number of rows of a table; None if this user may not read it."""

    def batches(self, part: Part) -> Iterator[Rows]:
        """Read the columns of a table, in any order."""

    def repeated(self, part: Part, at: int) -> Iterator[Rows]:
        """Read the rows whose value in the column at ``at`` another row has, too."""


class Target(Protocol):
    """A database in the write transaction that fills it."""

    def reserve(self, parts: Iterable[Part]) -> None:
        """Keep every other writer out until the transaction ends."""

    def write(self, part: Part, batches: Iterable[Rows]) -> None:
        """Write canonical rows into a table."""

    def batches(self, part: Part) -> Iterator[Rows]:
        """Read the columns of a table back."""

    def finish(self, part: Part) -> None:
        """Let the next row of a table have an id above those that were written."""


def reading(database: Database) -> AbstractContextManager[Source]:
    """Read ``database`` in one transaction, which changes nothing and stops no writer."""
    if isinstance(database, SqliteDatabase):
        return _reading_file(database)
    from nextcloud_mcp_server.backends.postgresql.database import (  # noqa: PLC0415 - an extra
        PostgresDatabase,
    )

    assert isinstance(database, PostgresDatabase)  # noqa: S101 - there are two engines
    return _reading_server(database)


def target(database: Database, transaction: Transaction) -> Target:
    """Return the writer for a transaction on ``database``."""
    if isinstance(database, SqliteDatabase):
        return _SqliteTarget(transaction)
    return _PostgresTarget(transaction)


@contextmanager
def _reading_file(database: SqliteDatabase) -> Iterator[Source]:
    # A crashed one is read as it will be after its recovery.
    with (
        readable(database.path) as (path, _),
        naming(path),
        closing(connect_read_only(path)) as connection,
    ):
        connection.execute("BEGIN")
        yield _SqliteSource(connection)


class _SqliteSource:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def structure(self) -> Structure:
        return read_structure(self._connection.execute)

    def count(self, table: str) -> int | None:
        [number] = self._connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()  # noqa: S608 - quoted
        return int(number)

    def repeated(self, part: Part, at: int) -> Iterator[Rows]:
        return self._batches(part, repeated=_repeated(part, at, quoted(part.table)))

    def batches(self, part: Part) -> Iterator[Rows]:
        # The driver reads UTF-8, the usual case, in a third of the time.
        tolerant, self._connection.text_factory = self._connection.text_factory, str
        read = 0
        try:
            for rows in self._batches(part):
                yield rows
                read += len(rows)
            return
        except sqlite3.OperationalError as error:
            # An error of SQLite has a code; the driver's "not UTF-8" has none.
            if hasattr(error, "sqlite_errorcode"):
                raise
        finally:
            self._connection.text_factory = tolerant
        yield from self._batches(part, read)

    def _batches(self, part: Part, skip: int = 0, repeated: str = "") -> Iterator[Rows]:
        """Read the rows after the first ``skip``, in the order of their ids."""
        order = f"ORDER BY rowid LIMIT -1 OFFSET {skip}"
        cursor = self._connection.execute(
            f"SELECT {_names(part)} FROM {quoted(part.table)} {repeated} {order}"  # noqa: S608 - quoted
        )
        with closing(cursor):
            while rows := _hidden(cursor.fetchmany(BATCH)):
                yield rows


class _SqliteTarget:
    def __init__(self, transaction: Transaction) -> None:
        self._connection = transaction.connection

    def reserve(self, parts: Iterable[Part]) -> None:
        """Do nothing: there is one writer."""

    def write(self, part: Part, batches: Iterable[Rows]) -> None:
        places = ", ".join("?" * len(part.columns))
        insert = f"INSERT INTO {quoted(part.table)} ({_names(part)}) VALUES ({places})"  # noqa: S608 - quoted
        for rows in batches:
            self._connection.exec_driver_sql(insert, _stored(part, rows))

    def batches(self, part: Part) -> Iterator[Rows]:
        # The driver of a migration reads the whole result of a statement into memory.
        query = f"SELECT {_names(part)}, rowid FROM {quoted(part.table)}"  # noqa: S608 - quoted
        order = f"ORDER BY rowid LIMIT {BATCH}"
        found = _hidden(self._connection.exec_driver_sql(f"{query} {order}"))
        while found:
            yield [row[:-1] for row in found]
            more = f"{query} WHERE rowid > ? {order}"
            found = _hidden(self._connection.exec_driver_sql(more, (found[-1][-1],)))

    def finish(self, part: Part) -> None:
        """Do nothing: SQLite takes the greatest id."""


def _stored(part: Part, rows: Rows) -> list[Any]:
    """Return canonical rows as SQLite stores them."""
    columns = SecretList(zip(*rows, strict=True))
    for at, column in enumerate(part.columns):
        if isinstance(column.kind, Boolean):
            columns[at] = tuple(None if one is None else int(one) for one in columns[at])
        elif isinstance(column.kind, Moment):
            # As the releases wrote it, because texts are compared as they are.
            columns[at] = tuple(one and one.replace(tzinfo=UTC).isoformat() for one in columns[at])
    return list(zip(*columns, strict=True))


@contextmanager
def _reading_server(database: Any) -> Iterator[Source]:
    with database.reading() as (place, _):
        # The target may have to be waited for.
        place.rows("SET LOCAL idle_in_transaction_session_timeout TO 0")
        place.rows("SET LOCAL statement_timeout TO 0")
        place.rows("SET LOCAL datestyle TO 'ISO'")
        yield _PostgresSource(place)


#: Every relation of the schema that can have rows or is a view.
_RELATIONS: Final = """
SELECT c.relname, c.relkind IN ('v', 'm', 'f') FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
"""

_READABLE: Final = "SELECT pg_catalog.has_table_privilege(pg_catalog.to_regclass(%s), 'SELECT')"


class _PostgresSource:
    def __init__(self, place: Place) -> None:
        self._place = place

    def structure(self) -> Structure:
        found = self._place.structure()
        relations = dict(self._place.rows(_RELATIONS, [self._place.schema]))
        tables = {name: Table() for name, is_view in relations.items() if not is_view}
        views = frozenset(name for name, is_view in relations.items() if is_view)
        return found._replace(tables=tables | dict(found.tables), others=found.others | views)

    def count(self, table: str) -> int | None:
        name = self._place.table(table)
        if self._place.rows(_READABLE, [name]) != [(True,)]:
            return None
        [(number,)] = self._place.rows(f"SELECT count(*) FROM {name}")  # noqa: S608 - quoted
        return int(number)

    def batches(self, part: Part) -> Iterator[Rows]:
        return _from_server(self._place.connection, part, self._place.table(part.table))

    def repeated(self, part: Part, at: int) -> Iterator[Rows]:
        table = self._place.table(part.table)
        return _from_server(self._place.connection, part, table, _repeated(part, at, table))


class _PostgresTarget:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._connection: psycopg.Connection[Any] = (
            transaction.connection.connection.driver_connection  # type: ignore[assignment]
        )
        transaction.execute("SET LOCAL datestyle TO 'ISO'")

    def reserve(self, parts: Iterable[Part]) -> None:
        names = ", ".join(quoted(part.table) for part in parts)
        self._transaction.execute(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")

    def write(self, part: Part, batches: Iterable[Rows]) -> None:
        table = quoted(part.table)
        types = self._types(part)
        with self._connection.cursor() as cursor:
            statement = f"COPY {table} ({_names(part)}) FROM STDIN (FORMAT BINARY)"
            with cursor.copy(statement.encode()) as copy:
                copy.set_types(types)
                for rows in batches:
                    for row in rows:
                        copy.write_row(row)

    def _types(self, part: Part) -> list[int]:
        """Return the types that the columns have, which an operator may have changed."""
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT attname, atttypid FROM pg_catalog.pg_attribute "
                "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
                [quoted(part.table)],
            )
            found = dict(cursor.fetchall())
        return [int(found[column.name]) for column in part.columns]

    def batches(self, part: Part) -> Iterator[Rows]:
        return _from_server(self._connection, part, quoted(part.table))

    def finish(self, part: Part) -> None:
        for at in part.key:
            name, table = part.columns[at].name, quoted(part.table)
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT pg_get_serial_sequence(%s, %s)", [table, name])
                [sequence] = cursor.fetchone() or [None]
                if sequence is None:
                    continue
                cursor.execute(f"SELECT max({quoted(name)}) FROM {table}".encode())  # noqa: S608 - quoted
                [most] = cursor.fetchone() or [None]
                # A sequence begins at 1.
                if most is not None and most >= 1:
                    cursor.execute("SELECT setval(%s, %s)", [sequence, most])


_cursors = count(1)


def _from_server(
    connection: psycopg.Connection[Any], part: Part, table: str, repeated: str = ""
) -> Iterator[Rows]:
    names = ", ".join(
        # A datetime cannot be 'infinity' or before the year 1; a text can.
        f"{quoted(c.name)}::text" if isinstance(c.kind, Moment) else quoted(c.name)
        for c in part.columns
    )
    with connection.cursor(name=f"copy_{next(_cursors)}") as cursor:
        cursor.execute(f"SELECT {names} FROM {table} {repeated}".encode(), binary=True)  # noqa: S608 - quoted
        while rows := _hidden(cursor.fetchmany(BATCH)):
            yield rows


def _hidden(rows: Iterable[Sequence[Any]]) -> list[SecretTuple]:
    """Return rows hidden: released versions have stored some secrets in plain text."""
    return list(map(SecretTuple, rows))


def _repeated(part: Part, at: int, table: str) -> str:
    name = quoted(part.columns[at].name)
    groups = f"SELECT {name} FROM {table} GROUP BY {name} HAVING count(*) > 1"  # noqa: S608 - quoted
    return f"WHERE {name} IN ({groups})"


def _names(part: Part) -> str:
    return ", ".join(quoted(column.name) for column in part.columns)
