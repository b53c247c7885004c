"""Choose the engine of a database: what does not work on files alone goes through here."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.paths import database_path

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import Transaction


def connect(place: str | os.PathLike[str]) -> Database:
    """Return the database at a path or an SQLAlchemy URL. Nothing is opened.

    Raises:
        TokenStorageError: ``bad-path``, or ``unsupported-database`` for the URL of an engine
            that this version cannot use.
    """
    return SqliteDatabase(database_path(place))


def require_file(database: Database, command: str) -> Path:
    """Return the file of a database, for what works on files only.

    Args:
        database: any database.
        command: what was asked for, for the message: "db backup".

    Raises:
        TokenStorageError: ``unsupported-database`` if the engine keeps no file of its own.
    """
    if isinstance(database, SqliteDatabase):
        return database.path
    raise TokenStorageError(
        f"{command} works on a database file, and {database} is not one.",
        code="unsupported-database",
        remedy="Use the backup tools of the database server.",
    )


def empty_database() -> AbstractContextManager[Transaction]:
    """Open a transaction in an empty database in memory, to run the migrations in."""
    # Imports SQLAlchemy.
    from nextcloud_mcp_server.backends.sqlite.transaction import in_memory  # noqa: PLC0415

    return in_memory()
