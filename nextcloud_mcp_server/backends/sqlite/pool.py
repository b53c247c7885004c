"""The pool of a running store: reader threads and one writer thread, never the event loop.

SQLite has one writer at a time, so one thread writes, and the units that wait for it share
the next commit. In WAL mode readers and the writer do not block each other.
"""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import stat
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from nextcloud_mcp_server import forks
from nextcloud_mcp_server.backends.base import Connection, Hold
from nextcloud_mcp_server.backends.lanes import FORK_WAIT, Driver, Lane
from nextcloud_mcp_server.backends.sqlite import group_commit, in_use
from nextcloud_mcp_server.backends.sqlite.connect import (
    BUSY_TIMEOUT,
    file_uri,
    has_content,
    is_still,
)
from nextcloud_mcp_server.backends.sqlite.errors import always_named, stray_journal
from nextcloud_mcp_server.backends.sqlite.open_files import FileId, OpenFiles
from nextcloud_mcp_server.backends.sqlite.wal import KEPT, Checkpoints, WalFile, library
from nextcloud_mcp_server.concurrency import run_to_the_end, start
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import permissions

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: FULL in WAL mode loses no acknowledged write in a power cut.
SERVING_PRAGMAS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "foreign_keys": "ON",
        "synchronous": "FULL",
        "secure_delete": "ON",
        "wal_autocheckpoint": "0",
        "journal_size_limit": str(KEPT),
    }
)

#: Seconds to wait for the threads of a store that was never closed.
_PATIENCE: Final = 1.0

#: Errors of SQLite on a journal that it has to roll back, and cannot.
_CLOSED: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}

#: Reader threads, so that one long batch does not block the others.
_READERS: Final = 3


class SqlitePool:
    """An open SQLite database."""

    def __init__(
        self,
        path: Path,
        journal_mode: str,
        hold: Hold | None = None,
        *,
        read_only: str = "",
        opened: FileId | None = None,
    ) -> None:
        """Create the pool; connections are opened when they are first needed.

        Args:
            path: the database file, at head.
            journal_mode: the journal mode; other than WAL only EXTRA is durable.
            hold: the marker "in use"; released when the pool is closed.
            read_only: why it can only be read; empty if it can be written.
            opened: the identity of the file that the start prepared; None for the file now.
        """
        self.path = path
        self._hold = hold
        self._read_only = read_only
        self._pragmas = dict(SERVING_PRAGMAS)
        still = bool(read_only) and is_still(path)
        # SQLite does not report the mode of a database that can only be read as immutable.
        self._in_wal = journal_mode == "wal" or still
        if not self._in_wal:
            self._pragmas["synchronous"] = "EXTRA"
        # Not "rwc": a missing database must not be replaced by an empty one.
        self._how = "mode=rw"
        if read_only:
            self._how = "mode=ro&immutable=1" if still else "mode=ro"
        self._files = OpenFiles(path, opened)
        self._guard: sqlite3.Connection | None = None
        self._held = False
        self._readers = self._reading()
        self._log = WalFile(path) if self._in_wal else None
        write = partial(
            group_commit.write, group_commit.Target(self._files, self._log, group_commit.Schema())
        )
        # Held while the guard or the connections of a checkpoint are opened, and during a fork.
        self._opening = threading.Lock()
        self._checkpoints: Callable[[bool], float | None] = _no_checkpoints
        if self._log is not None:
            self._checkpoints = Checkpoints(path, self._files, self._opening, self._log)
        self._writer = Lane(
            "token-store-write",
            1,
            Driver(self._connect, _is_usable, _close),
            write,
            self._named,
            afterwards=self._checkpoints,
            around_fork=(self._pause, self._resume),
        )
        self._process = os.getpid()
        if isinstance(self._checkpoints, Checkpoints) and not read_only:
            self._look_after(self._checkpoints.begin())
        logger.debug("%s is open: %s", path, library())
        # After those of the lanes, so it is called first.
        atexit.register(self._close)

    def _look_after(self, pause: float | None) -> None:
        # Without a thread, the first write or the close does it.
        if pause is not None:
            with suppress(TokenStorageError):
                self._writer.look_after(pause)

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run ``unit`` in a read transaction."""
        return self._readers.run(unit)

    def write(self, unit: Callable[[Connection], T], *, again: bool = False) -> Awaitable[T]:
        """Run ``unit`` in a write transaction; return after a durable commit.

        If the caller is cancelled, the unit still runs to its end: a grant that the provider
        has already rotated must reach the disk.

        Raises:
            TokenStorageError: ``read-only`` if the database was opened for reading.
        """
        if self._read_only:
            with forks.delayed:
                self._open_for_writing()
        return self._writer.run(unit)

    def _open_for_writing(self) -> None:
        """Open the database for writing if it can be written by now."""
        if permissions.may(self.path, os.W_OK):
            # SQLite has given them the mode that the database had then.
            mode = self.path.stat().st_mode
            for companion in (Path(f"{self.path}-wal"), Path(f"{self.path}-shm")):
                with suppress(OSError):
                    if stat.S_ISREG(companion.lstat().st_mode):
                        companion.chmod(stat.S_IMODE(mode))
        self._read_only = permissions.unwritable(self.path)
        if self._read_only:
            raise TokenStorageError(
                f"{self.path} is open for reading only, because {self._read_only}; "
                "nothing was written.",
                code="read-only",
                remedy="Give this user write access to the file and to its folder: the next write "
                "needs no restart.",
            )
        logger.warning("%s can be written now", self.path)
        # An immutable connection sees no change, and the shared memory of a read-only one is
        # read-only for the whole process. This blocks the event loop for one batch of reads.
        self._how, earlier = "mode=rw", self._readers
        self._readers = self._reading()
        earlier.close()
        with self._opening:
            if self._guard is not None:
                self._guard.close()
                self._guard = None
        if self._hold is None:
            self._hold = in_use.hold(self.path)

    def _reading(self) -> Lane:
        read = partial(group_commit.read, self._files)
        driver = Driver(self._connect, _is_usable, _close)
        return Lane("token-store-read", _READERS, driver, read, self._named)

    async def close(self) -> None:
        """Finish the running units, then close every connection.

        The last one writes the WAL back into the file and removes it. A cancelled caller
        waits until that is done. In a forked child nothing is closed.
        """
        try:
            await run_to_the_end(lambda _: self._close(), name="token-store-close")
        except TokenStorageError as error:
            if error.code != "no-thread":
                raise
            # Blocking the event loop is better than an open database.
            self._close()

    def abandon(self) -> None:
        """Close the pool of a store that was never closed, and warn."""
        if os.getpid() != self._process:
            return
        # The garbage collector calls this in any thread, which may hold a lock that a thread
        # of the pool waits for, or be one of these.
        lanes, deadline = (self._readers, self._writer), time.monotonic() + _PATIENCE
        if any(lane.is_current() for lane in lanes):
            self._close_elsewhere()
        elif all(lane.stop(deadline) for lane in lanes):
            with ExitStack() as block:
                # A fork may wait for what this thread holds.
                if forks.delayed.enter_at_once():
                    block.push(forks.delayed)
                    self._close()
                else:
                    self._close_elsewhere()
        warnings.warn(
            f"the token store {self.path} was never closed", ResourceWarning, stacklevel=2
        )

    def check(self) -> None:
        """Check that no open file was moved, deleted or replaced."""
        self._files.require()

    def _close_elsewhere(self) -> None:
        with suppress(TokenStorageError):
            start(threading.Thread(target=self._close, name="token-store-close"))

    def _pause(self) -> None:
        """Close the guard too before a fork. The -wal may be gone when it is opened again.

        If a file was replaced it stays: it is needed to save what is open, and a child that
        inherits it cannot write, and locks nothing of the file that is there now.
        """
        self._held = self._opening.acquire(timeout=FORK_WAIT)
        if not self._held:
            forks.leave_unsafe()
        elif not self._files.problem():
            guard, self._guard = self._guard, None
            if guard is not None:
                self._files.forget_companions()
                guard.close()

    def _resume(self) -> None:
        if self._held:
            self._held = False
            self._opening.release()

    def _close(self) -> None:
        """Close every connection.

        The last one that can write applies the ``-wal`` that it has open to the database, and
        deletes the file of that name. So if a file was replaced, the guard is the last.
        """
        atexit.unregister(self._close)
        # A forked child has no connection, and must not open one.
        if os.getpid() != self._process:
            return
        with forks.delayed:
            try:
                for lane in (self._readers, self._writer):
                    lane.close()
                self._close_guard()
                # If another program has the database open, the -wal is still there.
                self._checkpoints(True)
            finally:
                if self._log is not None:
                    self._log.close()
                if self._hold is not None:
                    self._hold.release()

    def _close_guard(self) -> None:
        guard, self._guard = self._guard, None
        with suppress(sqlite3.Error), ExitStack() as stack:
            if not (replaced := self._files.problem()) and not self._has_journal():
                # The start leaves a -shm, so one is opened even if no unit needed any. This
                # PRAGMA reads the file, but not the schema.
                last = stack.enter_context(closing(self._open(self._how)))
                last.execute("PRAGMA user_version").fetchall()
            if guard is not None:
                stack.enter_context(closing(guard))
                if replaced and not self._read_only and self._files.has_own_pages:
                    self._save(guard, replaced)
        if guard is not None:
            # A damaged file ends the block before it.
            with suppress(sqlite3.Error):
                guard.close()

    def _save(self, guard: sqlite3.Connection, replaced: str) -> None:
        """Keep the acknowledged writes of files that have lost their names."""
        # Imported here, because a store seldom needs it.
        from nextcloud_mcp_server.backends.sqlite.backup import save_open  # noqa: PLC0415

        try:
            saved = save_open(guard, self.path)
        except Exception as error:  # noqa: BLE001 - closing must not fail for it
            logger.error("%s: what this store had open could not be saved (%s)", replaced, error)
        else:
            logger.warning("%s: what this store had open is saved in %s", replaced, saved)

    def _open(self, how: str) -> sqlite3.Connection:
        return sqlite3.Connection(
            f"{file_uri(self.path)}?{how}",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            # The threads of a lane share their connections, one user at a time.
            check_same_thread=False,
        )

    def _connect(self) -> sqlite3.Connection:
        with self._opening:
            # Another file of this name must not even be opened.
            self._files.require()
            # SQLite would wait for the lock under which it is rolled back.
            if self._has_journal():
                raise stray_journal(self.path)
            if self._guard is None:
                self._guard = self._open_guard()
        connection = self._open(self._how)
        try:
            for name, value in self._pragmas.items():
                connection.execute(f"PRAGMA {name}={value}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _has_journal(self) -> bool:
        """Return whether a ``-journal`` of another file lies beside a database in WAL mode."""
        return self._in_wal and has_content(self.path, "-journal")

    def _open_guard(self) -> sqlite3.Connection:
        """Open the connection that is open as long as any other, and changes nothing.

        While it is open, no program deletes the ``-wal``: so a ``-wal`` that is gone is a fault.
        """
        guard = self._open(self._how.replace("mode=rw", "mode=ro"))
        try:
            if self._in_wal:
                # In WAL mode this opens the companions, too.
                guard.execute("PRAGMA user_version").fetchall()
                self._files.add_companions()
            self._files.require()
        except BaseException:
            guard.close()
            raise
        return guard

    def _named(self, error: BaseException) -> BaseException:
        # Not chained to the driver's error, whose text may hold values.
        if isinstance(error, sqlite3.Error):
            # SQLite reports many errors on files that have lost their names.
            try:
                self._files.require()
            except TokenStorageError as replaced:
                return replaced
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CLOSED and self._has_journal():
                return stray_journal(self.path)
        known = always_named(error, self.path) if isinstance(error, Exception) else None
        return known or error


def _is_usable(connection: sqlite3.Connection) -> bool:
    """Return whether the next batch can use it; close it if not."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        _close(connection)
        return False
    return True


def _close(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        connection.close()


def _no_checkpoints(_: bool) -> None:
    """Stand for the checkpoints of a rollback journal, which has none."""
