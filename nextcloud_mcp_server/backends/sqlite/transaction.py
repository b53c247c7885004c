"""SQLAlchemy engines over aiosqlite, with real transactions.

Python's sqlite3 commits before DDL of its own accord, so a migration that dies half-way
would leave half its tables. With ``isolation_level=None`` the driver begins nothing, and
the engine's begin event does, as SQLAlchemy's documentation of the SQLite dialect says
under "Serializable isolation / Savepoints / Transactional DDL".
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, Connection, NullPool, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from nextcloud_mcp_server.backends.sqlite.connect import BUSY_TIMEOUT
from nextcloud_mcp_server.backends.sqlite.database import require_lock, use_wal
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


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
    }
)


def _values_stay_out(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


def _silence_values() -> None:
    # At DEBUG, aiosqlite's logger prints every statement with its bound values, and
    # hide_parameters is SQLAlchemy's alone. Adding a filter twice adds it once.
    logging.getLogger("aiosqlite").addFilter(_values_stay_out)


def create_engine(path: Path, pragmas: Mapping[str, str]) -> AsyncEngine:
    """An engine on ``path`` whose connections have ``pragmas`` and begin nothing themselves.

    Args:
        path: the database file.
        pragmas: what every new connection is told first.
    """
    _silence_values()
    engine = create_async_engine(
        # Built from parts: in a URL typed as text, 'x?y.db' silently opens 'x'.
        URL.create("sqlite+aiosqlite", database=str(path.absolute())),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        try:
            for name, value in pragmas.items():
                cursor.execute(f"PRAGMA {name}={value}")
        finally:
            cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A read transaction that turns into a write fails at once, whatever the timeout.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@asynccontextmanager
async def migration_transaction(path: Path) -> AsyncIterator[AsyncConnection]:
    """One write transaction for a whole migration; committed only when the body ends well.

    The caller holds the lock of the database.
    """
    engine = create_engine(path, MIGRATION_PRAGMAS)
    try:
        async with engine.connect() as connection, connection.begin():
            yield connection
    finally:
        await engine.dispose()


@asynccontextmanager
async def migration_session(
    path: Path, lock_timeout: float = DEFAULT_LOCK_TIMEOUT
) -> AsyncIterator[AsyncConnection]:
    """Hold the lock of ``path`` and yield a connection inside one write transaction.

    A file that is not there is made. The transaction is committed when the body ends
    without an error, and the database is in WAL mode then.

    Raises:
        TokenStorageError: where the path, the lock or the disk does not allow it.
    """
    # Imported late, so that the path of a start at head does without SQLAlchemy.
    from nextcloud_mcp_server.backends.sqlite.transaction import migration_transaction  # noqa: PLC0415

    files.check_path(path)
    path = files.follow(path)
    files.make_folder(path)
    with guard(path, lock_timeout) as held, naming(path):
        require_lock(held, path)
        files.create_private(path)
        async with migration_transaction(path) as connection:
            yield connection
        use_wal(path)
