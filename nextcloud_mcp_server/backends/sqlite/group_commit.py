"""Group commit: the units of a batch share one transaction (DeWitt et al., 1984).

64 writers cost a few disk syncs, not 64. If a unit fails, all are rolled back and run again with
a savepoint each, so that the others are committed. Nothing is answered for a file that is not
the one at its place any more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from nextcloud_mcp_server.backends.lanes import Answer, Job, attempt
from nextcloud_mcp_server.backends.sqlite.driver import DriverConnection
from nextcloud_mcp_server.backends.sqlite.open_files import OpenFiles
from nextcloud_mcp_server.backends.sqlite.wal import WalFile
from nextcloud_mcp_server.errors import TokenStorageError

#: Runs several jobs in the open transaction; returns None if it must be rolled back.
_Batch = Callable[[sqlite3.Connection, DriverConnection, Sequence[Job]], list[Answer] | None]


def read(files: OpenFiles, connection: sqlite3.Connection, jobs: Sequence[Job]) -> Sequence[Answer]:
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
    files.require()
    return answers


class Schema:
    """The schema as the last transaction saw it.

    Attributes:
        has_triggers: whether it has triggers.
    """

    def __init__(self) -> None:
        self.has_triggers = False
        self._version = -1

    def look(self, connection: sqlite3.Connection) -> None:
        """Look for triggers if the schema has changed, in a write transaction."""
        [(version,)] = connection.execute("PRAGMA schema_version").fetchall()
        if version != self._version:
            # This also makes SQLite read the schema again, which it does not do by itself if a
            # trigger that is gone by now names a table that is not there.
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger' LIMIT 1")
            self.has_triggers, self._version = bool(found.fetchall()), version


class Target(NamedTuple):
    """What is written to: the files that a store has open, and the ``-wal`` if there is one."""

    files: OpenFiles
    log: WalFile | None
    schema: Schema

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin a write transaction in the file that has the name of the database, or raise."""
        connection.execute("BEGIN IMMEDIATE")
        self.schema.look(connection)
        if self.log is not None:
            self.log.begin(connection)

    def door(self, connection: sqlite3.Connection) -> DriverConnection:
        """Return the connection of the units of a transaction that has begun."""
        return DriverConnection(connection, has_triggers=self.schema.has_triggers)

    def commit(self, connection: sqlite3.Connection) -> None:
        """Commit into the file that has the name of the database, or raise."""
        self.files.require(connection)
        connection.execute("COMMIT")
        self.files.require()
        if self.log is not None:
            self.log.committed()


def write(target: Target, connection: sqlite3.Connection, jobs: Sequence[Job]) -> Sequence[Answer]:
    """Run every job in one commit; each alone if that commit fails."""
    if len(jobs) > 1:
        # Most batches have no failure, and savepoints are a fifth of their cost.
        for carry_out in (_all_or_none, _each_or_not):
            if (answers := _together(target, connection, jobs, carry_out)) is not None:
                return answers
    return [_alone(target, connection, job) for job in jobs]


def _together(
    target: Target, connection: sqlite3.Connection, jobs: Sequence[Job], carry_out: _Batch
) -> list[Answer] | None:
    """Return the answers after one commit; None if there was none."""
    try:
        target.begin(connection)
        answers = carry_out(connection, target.door(connection), jobs)
        if answers is not None:
            target.commit(connection)
    except sqlite3.Error as error:
        _roll_back(connection)
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            # Each alone would wait as long again.
            raise
        return None
    _roll_back(connection)
    return answers


def _all_or_none(
    connection: sqlite3.Connection, door: DriverConnection, jobs: Sequence[Job]
) -> list[Answer] | None:
    answers = []
    for job in jobs:
        answers.append(answer := attempt(job, door))
        # A unit may hide an error that has ended the transaction; the next one would write
        # outside of it.
        if answer.error is not None or not connection.in_transaction:
            return None
    return answers


def _each_or_not(
    connection: sqlite3.Connection, door: DriverConnection, jobs: Sequence[Job]
) -> list[Answer]:
    answers = []
    for job in jobs:
        connection.execute("SAVEPOINT unit")
        answers.append(answer := attempt(job, door))
        if answer.error is not None:
            # This fails if the error has ended the transaction; then all are run again.
            connection.execute("ROLLBACK TO unit")
        connection.execute("RELEASE unit")
    return answers


def _alone(target: Target, connection: sqlite3.Connection, job: Job) -> Answer:
    try:
        target.begin(connection)
        answer = attempt(job, target.door(connection))
        if answer.error is None:
            target.commit(connection)
    except (sqlite3.Error, TokenStorageError) as error:
        answer = Answer(error=error)
    _roll_back(connection)
    return answer


def _roll_back(connection: sqlite3.Connection) -> None:
    """Undo what is not committed."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
