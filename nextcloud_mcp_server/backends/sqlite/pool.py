"""The pool of a running store: reader threads and one writer thread, never the event loop.

SQLite has one writer at a time, so one thread writes, and the units that wait for it share
the next commit: 64 writers cost a few disk syncs, not 64 (group commit; DeWitt et al., 1984).
If one of them fails, all are rolled back and run again with a savepoint each, so that the
others are committed. In WAL mode readers and the writer do not block each other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar

from nextcloud_mcp_server.backends.base import Connection, Hold
from nextcloud_mcp_server.backends.sqlite.batches import Answer, Job, Lane, attempt
from nextcloud_mcp_server.backends.sqlite.connect import BUSY_TIMEOUT, file_uri, is_still
from nextcloud_mcp_server.backends.sqlite.errors import always_named
from nextcloud_mcp_server.backends.sqlite.statements import DriverConnection
from nextcloud_mcp_server.concurrency import run_to_the_end
from nextcloud_mcp_server.errors import TokenStorageError

T = TypeVar("T")

#: FULL in WAL mode loses no acknowledged write in a power cut.
SERVING_PRAGMAS: Final[Mapping[str, str]] = MappingProxyType(
    {"foreign_keys": "ON", "synchronous": "FULL", "secure_delete": "ON"}
)

#: Reader threads, so that one long batch does not block the others.
_READERS: Final = 3


#: Runs several jobs in the open transaction; returns None if it must be rolled back.
_Batch = Callable[[sqlite3.Connection, Sequence[Job]], list[Answer] | None]


class SqlitePool:
    """An open SQLite database."""

    def __init__(
        self, path: Path, journal_mode: str, hold: Hold | None = None, *, read_only: str = ""
    ) -> None:
        """Create the pool; connections are opened when they are first needed.

        Args:
            path: the database file, at head.
            journal_mode: the journal mode; other than WAL only EXTRA is durable.
            hold: the marker "in use"; released when the pool is closed.
            read_only: why it can only be read; empty if it can be written.
        """
        self.path = path
        self._hold = hold
        self._read_only = read_only
        self._pragmas = dict(SERVING_PRAGMAS)
        if journal_mode != "wal":
            self._pragmas["synchronous"] = "EXTRA"
        # Not "rwc": a missing database must not be replaced by an empty one.
        self._how = "mode=rw"
        if read_only:
            self._how = "mode=ro&immutable=1" if is_still(path) else "mode=ro"
        self._readers = Lane("token-store-read", _READERS, self._connect, _read, self._named)
        self._writer = Lane("token-store-write", 1, self._connect, _write, self._named)

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run ``unit`` in a read transaction."""
        return self._readers.run(unit)

    def write(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run ``unit`` in a write transaction; return after a durable commit.

        If the caller is cancelled, the unit still runs to its end: a grant that the provider
        has already rotated must reach the disk.

        Raises:
            TokenStorageError: ``read-only`` if the database was opened for reading.
        """
        if self._read_only:
            raise TokenStorageError(
                f"{self.path} is open for reading only, because {self._read_only}; "
                "nothing was written.",
                code="read-only",
                remedy="Give this user write access to the file and to its folder, then restart "
                "the server.",
            )
        return self._writer.run(unit)

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

    def _close(self) -> None:
        try:
            closed = [lane.close() for lane in (self._readers, self._writer)]
            # The start leaves a -shm, which the last connection removes: if no unit opened one,
            # open one now. This PRAGMA reads the file, but not the schema.
            if not any(closed):
                with suppress(sqlite3.Error), closing(self._open()) as last:
                    last.execute("PRAGMA user_version").fetchall()
        finally:
            if self._hold is not None:
                self._hold.release()

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{file_uri(self.path)}?{self._how}",
            uri=True,
            timeout=BUSY_TIMEOUT,
            isolation_level=None,
            # The threads of a lane share their connections, one user at a time.
            check_same_thread=False,
        )

    def _connect(self) -> sqlite3.Connection:
        connection = self._open()
        try:
            for name, value in self._pragmas.items():
                connection.execute(f"PRAGMA {name}={value}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _named(self, error: BaseException) -> BaseException:
        # Not chained to the driver's error, whose text may hold values.
        known = always_named(error, self.path) if isinstance(error, Exception) else None
        return known or error


def _read(connection: sqlite3.Connection, jobs: Sequence[Job]) -> Sequence[Answer]:
    """Run every job on one moment of the database."""
    door, answers = DriverConnection(connection), []
    for job in jobs:
        # Some errors end the transaction.
        if not connection.in_transaction:
            connection.execute("BEGIN")
        # A cancelled reader needs no result.
        answers.append(Answer() if job.future.done() else attempt(job, door))
    if connection.in_transaction:
        connection.execute("COMMIT")
    return answers


def _write(connection: sqlite3.Connection, jobs: Sequence[Job]) -> Sequence[Answer]:
    """Run every job in one commit; each alone if that commit fails."""
    if len(jobs) > 1:
        # Most batches have no failure, and savepoints are a fifth of their cost.
        for carry_out in (_all_or_none, _each_or_not):
            if (answers := _together(connection, jobs, carry_out)) is not None:
                return answers
    return [_alone(connection, job) for job in jobs]


def _together(
    connection: sqlite3.Connection, jobs: Sequence[Job], carry_out: _Batch
) -> list[Answer] | None:
    """Return the answers after one commit; None if there was none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        answers = carry_out(connection, jobs)
        if answers is not None:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            # Each alone would wait as long again.
            raise
        return None
    _roll_back(connection)
    return answers


def _all_or_none(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Answer] | None:
    door, answers = DriverConnection(connection), []
    for job in jobs:
        answers.append(answer := attempt(job, door))
        # A unit may hide an error that has ended the transaction; the next one would write
        # outside of it.
        if answer.error is not None or not connection.in_transaction:
            return None
    return answers


def _each_or_not(connection: sqlite3.Connection, jobs: Sequence[Job]) -> list[Answer]:
    door, answers = DriverConnection(connection), []
    for job in jobs:
        connection.execute("SAVEPOINT unit")
        answers.append(answer := attempt(job, door))
        if answer.error is not None:
            # This fails if the error has ended the transaction; then all are run again.
            connection.execute("ROLLBACK TO unit")
        connection.execute("RELEASE unit")
    return answers


def _alone(connection: sqlite3.Connection, job: Job) -> Answer:
    try:
        connection.execute("BEGIN IMMEDIATE")
        answer = attempt(job, DriverConnection(connection))
        if answer.error is None:
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        answer = Answer(error=error)
    _roll_back(connection)
    return answer


def _roll_back(connection: sqlite3.Connection) -> None:
    """Undo what is not committed."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
