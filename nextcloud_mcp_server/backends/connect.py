"""Choose the engine of a database: what does not work on files alone goes through here."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.errors import WRONG_USAGE, TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.settings import database_place

if TYPE_CHECKING:
    from nextcloud_mcp_server.backends.base import Transaction

#: What takes the place of backups on a server.
_DUMP: Final = (
    "Use the tools of the server: (umask 077; pg_dump --format=custom --file=tokens.dump URL) - "
    "and to restore into an empty schema: pg_restore --exit-on-error --single-transaction "
    "--dbname=URL tokens.dump"
)

#: What to do instead of a command that works on files only.
_INSTEAD: Final = {
    "db upgrade --dry-run": "See what would run: nextcloud-mcp-server db check {option} - and the "
    "statements: nextcloud-mcp-server db upgrade {revision}--sql {option}",
    # Not --sql, which refuses what decrypts.
    "db downgrade --dry-run": "Without --dry-run it lists what is lost, and asks first: "
    "nextcloud-mcp-server db downgrade {revision}{option}",
    "db repair": "An upgrade adds what is missing: nextcloud-mcp-server db upgrade {option}",
}


def connect(place: str | os.PathLike[str] | ServerUrl, *, dump: Path | None = None) -> Database:
    """Return the database at a path or a URL. Nothing is opened.

    Args:
        place: the path of a file, or the URL of a file or a server.
        dump: the file for the dump that a migration makes first; for a server only.

    Raises:
        TokenStorageError: ``bad-path``, or ``unsupported-database`` for the URL of an engine
            that this version cannot use, or whose driver is not installed.
    """
    found = database_place(place)
    if isinstance(found, Path):
        if dump is not None:
            raise TokenStorageError(
                f"--pg-dump is for a database on a server, and {found} is a file.",
                code="bad-input",
                remedy="Leave it out: a file is backed up before each migration.",
                exit_status=WRONG_USAGE,
            )
        return SqliteDatabase(found)
    # Imports the driver.
    from nextcloud_mcp_server.backends.postgresql.database import PostgresDatabase  # noqa: PLC0415

    return PostgresDatabase(found, dump=dump)


def require_file(database: Database, command: str, revision: str | None = None) -> Path:
    """Return the file of a database, for what works on files only.

    Args:
        database: any database.
        command: what was asked for, for the message: "db backup".
        revision: the one that was typed, for the remedy; None without one.

    Raises:
        TokenStorageError: ``unsupported-database`` if the engine keeps no file of its own.
    """
    if isinstance(database, SqliteDatabase):
        return database.path
    raise TokenStorageError(
        f"{command} works on a database file, and {database} is not one.",
        code="unsupported-database",
        remedy=_INSTEAD.get(command, _DUMP).format(
            option=database.option, revision=f"{for_shell(revision)} " if revision else ""
        ),
    )


def empty_database() -> AbstractContextManager[Transaction]:
    """Open a transaction in an empty database in memory, to run the migrations in."""
    # Imports SQLAlchemy.
    from nextcloud_mcp_server.backends.sqlite.transaction import in_memory  # noqa: PLC0415

    return in_memory()
