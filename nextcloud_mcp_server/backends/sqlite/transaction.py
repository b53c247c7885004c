"""SQLAlchemy engines over aiosqlite, with real transactions.

Python's sqlite3 commits before DDL by itself, so an interrupted migration would leave half
its tables. With ``isolation_level=None`` the driver begins nothing, and
the engine's begin event does, as SQLAlchemy's documentation of the SQLite dialect says
under "Serializable isolation / Savepoints / Transactional DDL".
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

# Imported by the first engine otherwise, where no fork waits for it.
import aiosqlite
from sqlalchemy import URL, Connection, NullPool, StaticPool, event
from sqlalchemy import create_engine as create_sync_engine
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_dbapi,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from nextcloud_mcp_server.backends.base import Transaction
from nextcloud_mcp_server.backends.sqlite import alter, backup, backup_files, catalog, integrity
from nextcloud_mcp_server.backends.sqlite.connect import (
    BUSY_TIMEOUT,
    open_connection,
    require_library,
    unwrapped,
)
from nextcloud_mcp_server.backends.sqlite.errors import named
from nextcloud_mcp_server.concurrency import run_in_own_loop, wait_to_the_end
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.progress import Reporter
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.reference import Reference
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Gaps, Structure, quoted

T = TypeVar("T")

#: Faults after which the backup is kept, because it may be needed.
_DAMAGE: Final = frozenset({"corrupt", "io-error", "not-a-database"})

#: While a migration recreates a table, foreign keys would delete the rows that point at
#: it, and without the legacy rename an operator's view on that table would stop it. EXTRA
#: also syncs the folder after the journal is gone: without it a power cut can bring a
#: finished transaction's journal back.
MIGRATION_PRAGMAS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "foreign_keys": "OFF",
        "legacy_alter_table": "ON",
        "synchronous": "EXTRA",
        "secure_delete": "ON",
        # See wal.py.
        "wal_autocheckpoint": "0",
    }
)


def _values_stay_out(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


class _Connection(AsyncAdapt_aiosqlite_connection):
    """SQLAlchemy's adapter, with every attribute of a connection of sqlite3.

    An application may set or call one for its own engines. What it sets stays here.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection._conn, name)


class _Driver(AsyncAdapt_aiosqlite_dbapi):
    """SQLAlchemy's adapter of the driver, with that connection."""

    def connect(self, *arguments: Any, **options: Any) -> _Connection:
        made: Any = await_only(_connect(*arguments, **options))
        return _Connection(self, made)


def _connect(database: str, **options: Any) -> aiosqlite.Connection:
    """Do what SQLAlchemy does, but with the class of the driver (see connect.py)."""
    connection = unwrapped(aiosqlite.Connection(lambda: open_connection(database, **options), 64))
    connection._thread.daemon = True
    return connection


def _reset(connection: Any) -> None:
    """Undo what an application has set on a connection."""
    connection.row_factory = None
    connection.text_factory = str


def create_engine(path: Path, pragmas: Mapping[str, str]) -> AsyncEngine:
    """Create an engine on ``path`` with ``pragmas`` whose connections begin nothing themselves."""
    # At DEBUG, aiosqlite's logger prints every statement with its bound values, and
    # hide_parameters is SQLAlchemy's alone. Adding a filter twice adds it once.
    logging.getLogger("aiosqlite").addFilter(_values_stay_out)
    engine = create_async_engine(
        # Built from parts: in a URL typed as text, 'x?y.db' silently opens 'x'.
        URL.create("sqlite+aiosqlite", database=str(path.absolute())),
        poolclass=NullPool,
        hide_parameters=True,
        module=_Driver(aiosqlite, sqlite3),
        connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False},
    )

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # Not in "connect": what an application listens to on every Engine (SQLAlchemy's own
        # recipes do) runs before this, and may have set or begun anything.
        made: Any = connection.connection.dbapi_connection
        _reset(connection.connection.driver_connection)
        made.rollback()
        made.isolation_level = None
        cursor = made.cursor()
        try:
            for name, value in pragmas.items():
                cursor.execute(f"PRAGMA {name}={value}")
        finally:
            cursor.close()
        # A read transaction that turns into a write fails at once, whatever the timeout.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@asynccontextmanager
async def migration_transaction(path: Path) -> AsyncIterator[AsyncConnection]:
    """One write transaction for a whole migration; committed only if the body ends well.

    The caller holds the lock of the database.
    """
    engine = create_engine(path, MIGRATION_PRAGMAS)
    connection = engine.connect()
    try:
        # Even after Ctrl-C: the thread of aiosqlite answers to this loop, which must be open.
        _ = await wait_to_the_end(asyncio.ensure_future(connection.start()))
        async with connection.begin():
            yield connection
    finally:
        if connection.sync_connection is not None:
            await connection.close()
        await engine.dispose()


def transact(path: Path, work: Callable[[Transaction], T]) -> T:
    """Call ``work`` in one write transaction, in an event loop of its own.

    Raises:
        Exception: what ``work`` or the commit raises; nothing is committed then.
    """
    files.create_private(path)
    made: list[Path] = []

    def run(connection: Connection) -> T:
        return work(SqliteTransaction(connection, path, made))

    async def main() -> T:
        async with migration_transaction(path) as connection:
            return await connection.run_sync(run)

    try:
        result = run_in_own_loop(lambda: asyncio.run(main()))
    except (Exception, KeyboardInterrupt) as error:
        known = named(error, path)
        # The database is as it was, and a start that is repeated would fill the disk.
        if known is None or known.code not in _DAMAGE:
            for file in made:
                with suppress(OSError):
                    backup_files.discard(file)
        raise
    if made:
        backup_files.prune(path, made=made)
        backup_files.make_private(path)
    return result


class SqliteTransaction:
    """A write transaction on a synchronous connection.

    Args:
        connection: begun already.
        path: the file; None in memory.
        made: receives the backups that are made.
    """

    def __init__(
        self,
        connection: Connection,
        path: Path | None = None,
        made: list[Path] | None = None,
    ) -> None:
        self.connection = connection
        self._path = path
        self._made = [] if made is None else made

    def execute(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        """Execute one statement; the driver's parameters have the form that is asked for."""
        result = self.connection.exec_driver_sql(sql, dict(parameters) if parameters else None)
        return result.all() if result.returns_rows else ()

    def structure(self) -> Structure:
        """Read the catalog."""
        known = load_history().known if self._path else {}
        return catalog.read_structure(self.execute, known)

    def versions(self) -> tuple[str | None, ...]:
        """Read the version table."""
        return tuple(row[0] for row in self.execute(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - a constant

    def count(self, table: str) -> int:
        """Count the rows of one table."""
        return catalog.count(self.execute, table)

    def row_counts(self, structure: Structure) -> dict[str, int]:
        """Count the rows of every table that is not bookkeeping, virtual ones aside."""
        return catalog.counts(self.execute, structure)

    def broken_references(self) -> set[tuple[Any, ...]]:
        """Run ``foreign_key_check``; a table that cannot be checked gives SQLite's message."""
        # An operator's table may reference columns that are not unique: that is no reason to
        # migrate nothing, as long as it was so before.
        return integrity.broken_references(self.execute)

    def references(self, tables: Collection[str], dropped: Collection[str]) -> list[Reference]:
        """Run ``foreign_key_list``, and count the rows."""
        return integrity.references(self.execute, tables, dropped)

    def backup(
        self,
        revision: str | None,
        *,
        action: str,
        keys: Sequence[str] | None,
        report: Reporter,
    ) -> Path | None:
        """Copy the file through a second connection, after removing the oldest backups."""
        if self._path is None:
            return None
        backup_files.prune(self._path)
        target = backup_files.backup_path(self._path, revision)
        made = backup.make_backup(self._path, target, action=action, keys=keys, report=report)
        self._made.append(made)
        return made

    def rename_back(self, tables: Iterable[str], prefix: str) -> None:
        """Rename the filled copies of an interrupted table recreation back."""
        for name in tables:
            copy, original = quoted(prefix + name), quoted(name)
            self.execute(f"ALTER TABLE {copy} RENAME TO {original}")

    def recreate(self, tables: Iterable[str], wanted: Structure) -> None:
        """Recreate disposable tables in their wanted shape."""
        if names := tuple(tables):
            alter.remake(self.execute, self.structure(), wanted, names)

    def add(self, missing: Gaps, wanted: Structure) -> None:
        """Add what is missing, with the statements of ``wanted``."""
        alter.fill(self.execute, missing, wanted)

    def drop(self, table: str) -> None:
        """Drop a table if it exists."""
        self.execute(f"DROP TABLE IF EXISTS {quoted(table)}")

    @contextmanager
    def keep_attached(self, ours: Iterable[str]) -> Iterator[None]:
        """Restore what an operator attached to a table that the body recreates."""
        before = alter.attached(self.execute)
        yield
        alter.attach(self.execute, before, frozenset(ours))


@contextmanager
def in_memory() -> Iterator[Transaction]:
    """Open a transaction in an empty database in memory."""
    require_library()
    with closing(open_connection(":memory:", isolation_level=None)) as raw:
        engine = create_sync_engine(
            "sqlite://", creator=lambda: raw, poolclass=StaticPool, hide_parameters=True
        )
        with engine.connect() as connection, connection.begin():
            # As in create_engine().
            _reset(raw)
            raw.rollback()
            raw.isolation_level = None
            # The defaults of a library may differ.
            for name, value in MIGRATION_PRAGMAS.items():
                raw.execute(f"PRAGMA {name}={value}")
            raw.execute("BEGIN")
            yield SqliteTransaction(connection)
