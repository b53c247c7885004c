"""An SQLite file while its migration lock is held."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from nextcloud_mcp_server.backends.base import RecoveryNeededError, Snapshot, Transaction
from nextcloud_mcp_server.backends.sqlite.connect import connect_to_write
from nextcloud_mcp_server.backends.sqlite.errors import named, naming, needed, not_writable
from nextcloud_mcp_server.backends.sqlite.in_use import in_use
from nextcloud_mcp_server.backends.sqlite.inspect import WAL, inspect_file, is_remote, recover
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock, is_foreign, lock_path
from nextcloud_mcp_server.backends.sqlite.open_files import wal_size
from nextcloud_mcp_server.backends.sqlite.wal import checkpoint
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files, permissions
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.settings import trusted_owners

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds to wait for a lock before the journal mode stays as it is.
_PATIENCE: Final = 5.0

#: Reasons to keep the journal mode for now; none of them harms the data.
_TRANSIENT: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
)


class LockedFile:
    """A database file in the thread that holds its lock.

    Args:
        path: the database file.
        held: the lock, or the reason why there is none.
        shared: whether others that only inspect hold it too.
        remote: whether its file system is not known to be local.
    """

    def __init__(
        self, path: Path, held: MigrationLock, *, remote: bool, shared: bool = False
    ) -> None:
        self._path = path
        self._remote = remote
        self._held = held
        self._shared = shared

    @property
    def unlocked(self) -> str:
        """Return what the operating system reported; empty if the lock is held."""
        return self._held.detail if self._held.problem else ""

    @cached_property
    def read_only(self) -> str:
        """Return the file, folder or mount that cannot be written; empty if all can be."""
        return permissions.unwritable(self._path)

    def announce(self, activity: str) -> None:
        """Write into the lock file who holds it and for what."""
        self._held.announce(activity)

    def require_writable(self) -> None:
        """Fail if the file, its folder or its lock cannot be written."""
        if reason := self.read_only:
            detail = f" ({self._held.detail})" if self._held.detail else ""
            raise not_writable(self._path, reason + detail)
        require_lock(self._held, self._path)

    def make_private(self) -> None:
        """Close the file, its companions, locks and key to other users; a group may read them."""
        trusted = trusted_owners()
        for suffix in (*files.BESIDE, ".key"):
            file = f"{self._path}{suffix}"
            if suffix in files.LOCKS and not permissions.is_private(file) and is_foreign(file):
                continue
            permissions.close_to_others(file, trusted)

    def inspect(self, *, samples: bool = False) -> Snapshot:
        """Read the file; roll back a crashed writer's journal first."""
        known = load_history().known
        try:
            return inspect_file(self._path, known, sampling=samples)
        except RecoveryNeededError:
            if self._shared:
                raise
            require_lock(self._held, self._path)
            logger.warning("%s has the journal of a crashed write: rolling it back", self._path)
            recover(self._path)
        try:
            return inspect_file(self._path, known, sampling=samples)
        except RecoveryNeededError as error:
            raise named(error.__cause__ or error, self._path) or error from error

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Run ``work`` over an aiosqlite engine, in an event loop of its own."""
        # Imports SQLAlchemy.
        from nextcloud_mcp_server.backends.sqlite.transaction import transact  # noqa: PLC0415

        return transact(self._path, work)

    def is_finished(self, snapshot: Snapshot) -> bool:
        """Return whether the journal mode is the one to serve in."""
        # On a remote file system WAL must go, everywhere else it must come.
        return (snapshot.journal_mode == WAL) is not self._remote

    def finish(self) -> str:
        """Switch to WAL if that is safe; return the journal mode.

        If a server is running, the -wal is still there, with all that a migration has written.
        """
        mode = use_wal(self._path)
        if wal_size(self._path):
            with suppress(sqlite3.Error):
                checkpoint(self._path, _PATIENCE, empty=True)
        return mode


def require_lock(held: MigrationLock, path: Path) -> None:
    """Fail if the lock is not held.

    Raises:
        TokenStorageError: ``read-only`` or ``lock-unavailable``.
    """
    if held.problem == "read-only" and (lock := permissions.closed_to_us(lock_path(path))):
        raise TokenStorageError(
            f"{path} has to be {needed(path)}, and its lock {lock_path(path)} cannot be opened: "
            f"{lock}.",
            code="read-only",
            remedy=f"As root: chown {os.geteuid()} {for_shell(lock_path(path))} - or delete it "
            "while no server is running; then try again.",
        )
    if held.problem == "read-only":
        raise TokenStorageError(
            f"{path} has to be {needed(path)}, and its folder cannot be written ({held.detail}).",
            code="read-only",
            remedy=f"Give this user write access to {path.parent}, then try again.",
        )
    if held.problem:
        raise TokenStorageError(
            f"{path} has to be {needed(path)}, and its file system cannot lock ({held.detail}).",
            code="lock-unavailable",
            remedy="Move the database to a file system that supports flock.",
        )


def use_wal(path: Path) -> str:
    """Switch ``path`` to WAL if that is safe; return the journal mode.

    Only under the lock and outside a transaction. If an open store, another connection or the
    disk prevents it, the mode stays and the next start tries again: the migration is
    committed, and every mode is safe to serve from. On a remote file system, where shared
    memory cannot be trusted, the mode becomes DELETE.
    """
    wanted = "delete" if is_remote(path) else WAL
    with naming(path), closing(connect_to_write(path, _PATIENCE)) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == wanted:
            return wanted
        # A store without a connection at the moment does not prevent the change, and would
        # write as in the mode that it was opened in.
        if in_use(path):
            logger.warning("%s stays in its journal mode for now (a server is running)", path)
            return str(mode)
        try:
            (mode,) = connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _TRANSIENT:
                raise
            logger.warning("%s stays in its journal mode for now (%s)", path, error)
    return str(mode)
