"""A migration by hand: the lock, one transaction, and WAL afterwards.

``alembic upgrade head``, typed in a checkout, runs through here, so that it is as safe
as a start of the server.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import WAL
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock as Held
from nextcloud_mcp_server.backends.sqlite.lock import lock_path
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import mounts, permissions

logger = logging.getLogger(__name__)

#: What keeps the journal mode as it is, and harms nothing else.
_IN_THE_WAY: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
)


def require_lock(held: Held, path: Path) -> None:
    """Insist on the lock.

    Raises:
        TokenStorageError: ``read-only`` or ``lock-unavailable`` where there is none.
    """
    if held.problem == "read-only" and (lock := permissions.closed_to_us(lock_path(path))):
        raise TokenStorageError(
            f"{path} has to be changed, and its lock {lock_path(path)} cannot be opened: {lock}.",
            code="read-only",
            remedy=f"As root: chown {os.geteuid()} {for_shell(lock_path(path))} - or delete it "
            "while no server is running; then try again.",
        )
    if held.problem == "read-only":
        raise TokenStorageError(
            f"{path} has to be changed, and its folder cannot be written ({held.detail}).",
            code="read-only",
            remedy=f"Give this user write access to {path.parent}, then try again.",
        )
    if held.problem:
        raise TokenStorageError(
            f"{path} has to be changed, and its file system cannot lock ({held.detail}).",
            code="lock-unavailable",
            remedy="Move the database to a file system that supports flock.",
        )


def require_writable(path: Path) -> None:
    """Insist that the database at ``path``, which is there, can be written. Changes nothing.

    Raises:
        TokenStorageError: ``read-only``.
    """
    if reason := permissions.unwritable(path):
        raise TokenStorageError(
            f"{path} has to be changed, and {reason}.",
            code="read-only",
            remedy="Give this user write access to the file and to its folder, then try again.",
        )


def use_wal(path: Path) -> str:
    """Switch ``path`` to WAL where that is safe; the journal mode it has afterwards.

    Only under the lock and outside a transaction. Where another connection or the disk is in
    the way, the mode stays, and the next start tries again: the migration before it is
    committed, and every mode is safe to serve from. On a network file system, where shared
    memory cannot be trusted, the mode becomes DELETE.
    """
    wanted = "delete" if mounts.on_network(path) else WAL
    if wanted != WAL:
        logger.warning("%s is on a network file system, so it is not used in WAL mode", path)
    with naming(path), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        try:
            (mode,) = connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _IN_THE_WAY:
                raise
            logger.warning("%s stays in its journal mode for now (%s)", path, error)
            (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    return str(mode)
