"""The pool of a running store: threads with a connection each, never the event loop.

One unit is one transaction: the server itself lets the commits of several connections share a sync
of its log. A read is one statement, which is a transaction by itself.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.lanes import Answer, Driver, Job, Lane
from nextcloud_mcp_server.backends.postgresql.connect import Server, read_facts
from nextcloud_mcp_server.backends.postgresql.driver import DriverConnection, Prepare, statements
from nextcloud_mcp_server.backends.postgresql.errors import always_named
from nextcloud_mcp_server.concurrency import run_to_the_end
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.settings import pool_size

if TYPE_CHECKING:
    from nextcloud_mcp_server.filesystem.server_url import ServerUrl

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for which a unit is tried again. PgBouncer refuses every login for 15 seconds after it
#: has seen a server that was down.
RETRY: Final = 20.0

#: Seconds between two attempts, at first and at most.
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5

#: Seconds to wait for the threads of a store that was never closed.
_PATIENCE: Final = 1.0

#: The begin of a write, whatever the defaults of the database are, in one message.
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
    "SET LOCAL statement_timeout TO '15s'; "
    "SET LOCAL idle_in_transaction_session_timeout TO '60s'"
)

#: After these the same statement can succeed on a new connection: a plan that is out of date, a
#: server that has become a standby.
_NEW_CONNECTION: Final = frozenset({"0A000", "25006"})

#: After these the same transaction can succeed: a deadlock, a conflict of snapshots.
_AGAIN: Final = frozenset({"40001", "40P01"})

_TRIGGERS: Final = """
SELECT EXISTS (
    SELECT 1 FROM pg_catalog.pg_trigger g
    JOIN pg_catalog.pg_class t ON t.oid = g.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = %s AND t.relname = ANY (%s) AND NOT g.tgisinternal)
"""


class Work(NamedTuple):
    """A unit, and how it may run.

    Attributes:
        unit: the unit of work.
        writes: whether it needs a transaction.
        again: whether it may run twice, if it is unknown whether it was committed.
    """

    unit: Callable[[Connection], Any]
    writes: bool
    again: bool


class Link:
    """The connection of one thread, opened when it is needed and opened again when it is lost.

    Args:
        server: the server.
        compiled: the compiled statements, by schema; shared by all links.
    """

    def __init__(self, server: Server, compiled: dict[str, Prepare]) -> None:
        self._server = server
        self._compiled = compiled
        self._connection: psycopg.Connection[Any] | None = None
        self._door: DriverConnection | None = None

    def door(self) -> DriverConnection:
        """Return what a unit is called with; connect if there is no connection.

        Raises:
            psycopg.Error: the server cannot be reached.
            TokenStorageError: it has no schema for this role.
        """
        if self._door is None:
            self._connection = connection = self._server.connect()
            facts = read_facts(connection, self._server.url)
            if facts.direct:
                connection.prepare_threshold = 2
            if facts.schema not in self._compiled:
                self._compiled[facts.schema] = statements(facts.schema)
            tables = sorted({table for table, _ in ENCRYPTED} | {"oauth_sessions", "audit_logs"})
            [(triggers,)] = connection.execute(_TRIGGERS, [facts.schema, tables]).fetchall()
            self._door = DriverConnection(
                connection.cursor(), self._compiled[facts.schema], has_triggers=triggers
            )
        return self._door

    def execute(self, sql: str) -> str:
        """Execute a statement of the transaction; return the server's answer."""
        if self._connection is None:
            raise psycopg.InterfaceError("there is no connection")
        return self._connection.execute(sql).statusmessage or ""

    @property
    def status(self) -> TransactionStatus:
        """Whether it is in a transaction; UNKNOWN without a connection."""
        if self._connection is None or self._connection.closed:
            return TransactionStatus.UNKNOWN
        return self._connection.info.transaction_status

    def close(self) -> None:
        """Close the connection, which may be lost already."""
        connection, self._connection, self._door = self._connection, None, None
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()

    def settle(self) -> None:
        """Undo what is not committed, or close the connection."""
        try:
            if self.status is not TransactionStatus.IDLE:
                self.execute("ROLLBACK")
        except psycopg.Error:
            self.close()


class PostgresPool:
    """An open database on a server.

    Args:
        server: the server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._process = os.getpid()
        compiled: dict[str, Prepare] = {}
        self._lane = Lane(
            "token-store",
            pool_size(),
            Driver(lambda: Link(server, compiled), lambda _: True, Link.close),
            self._carry_out,
            self._named,
            # Each unit waits for the network: they are to wait at the same time.
            batch=1,
        )

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run a unit of one statement, which is a transaction by itself."""
        return self._lane.run(Work(unit, writes=False, again=True))

    def write(self, unit: Callable[[Connection], T], *, again: bool = False) -> Awaitable[T]:
        """Run ``unit`` in a transaction; return after a durable commit.

        Raises:
            TokenStorageError: ``outcome-unknown`` if the connection was lost during the commit,
                and the unit may not run ``again``.
        """
        return self._lane.run(Work(unit, writes=True, again=again))

    def check(self) -> None:
        """Do nothing: nobody can replace the database under an open connection."""

    async def close(self) -> None:
        """Finish the running units, then close every connection."""
        try:
            await run_to_the_end(lambda _: self._lane.close(), name="token-store-close")
        except TokenStorageError as error:
            if error.code != "no-thread":
                raise
            self._lane.close()

    def abandon(self) -> None:
        """Close the pool of a store that was never closed, and warn."""
        if os.getpid() != self._process:
            return
        # A thread of the lane cannot wait for itself. What is not closed now is closed at the exit.
        if not self._lane.is_current() and self._lane.stop(time.monotonic() + _PATIENCE):
            self._lane.close()
        warnings.warn(
            f"the token store {self._server.url} was never closed", ResourceWarning, stacklevel=2
        )

    def _named(self, error: BaseException) -> BaseException:
        known = always_named(error, self._server.url) if isinstance(error, Exception) else None
        return known or error

    def _carry_out(self, link: Link, jobs: Sequence[Job]) -> Sequence[Answer]:
        return [self._answer(link, job) for job in jobs]

    def _answer(self, link: Link, job: Job) -> Answer:
        work: Work = job.unit
        if not work.writes and job.future.done():
            # A cancelled reader needs no result.
            return Answer()
        try:
            return Answer(carry_out(link, work, self._server.url))
        except BaseException as error:  # noqa: BLE001 - passed to the caller
            return Answer(error=error)


def carry_out(link: Link, work: Work, url: ServerUrl) -> Any:
    """Run a unit; again if the connection is lost before its commit was sent.

    Raises:
        psycopg.Error: the error of the server, or the last one after :data:`RETRY` seconds.
        TokenStorageError: ``outcome-unknown``.
    """
    deadline, pause, renewed = time.monotonic() + RETRY, _FIRST_PAUSE, False
    while True:
        attempt = _Attempt(link, work)
        try:
            return attempt.run()
        except psycopg.Error as error:
            lost = link.status is TransactionStatus.UNKNOWN
            stale = error.sqlstate in _NEW_CONNECTION and not renewed
            if attempt.is_committing and lost and not work.again:
                link.close()
                raise _outcome_unknown(url) from None
            link.settle()
            if stale:
                renewed = True
                link.close()
            elif not (lost or error.sqlstate in _AGAIN) or time.monotonic() >= deadline:
                raise
            logger.debug("again, after %s", type(error).__name__)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        except BaseException:
            link.settle()
            raise


class _Attempt:
    """One attempt at a unit.

    Attributes:
        is_committing: whether COMMIT was sent.
    """

    def __init__(self, link: Link, work: Work) -> None:
        self._link = link
        self._work = work
        self.is_committing = False

    def run(self) -> Any:
        """Run the unit, and commit what it wrote."""
        link, work = self._link, self._work
        door = link.door()
        if not work.writes:
            return work.unit(door)
        link.execute(_BEGIN)
        value = work.unit(door)
        # After an error that the unit has hidden, COMMIT answers ROLLBACK and raises nothing.
        if link.status is not TransactionStatus.INTRANS:
            raise psycopg.errors.InFailedSqlTransaction("a unit hid an error of the database")
        self.is_committing = True
        if (answer := link.execute("COMMIT")) != "COMMIT":
            raise psycopg.errors.InFailedSqlTransaction(f"COMMIT was answered with {answer}")
        return value


def _outcome_unknown(url: ServerUrl) -> TokenStorageError:
    return TokenStorageError(
        f"The connection to {url} was lost during a commit: the change was made, or it was not.",
        code="outcome-unknown",
        remedy="Look whether it is there, then do it again if it is not.",
    )
