"""The pool of a running store: threads with a connection each, never the event loop.

One unit is one transaction: the server itself lets the commits of several connections share a sync
of its log. A read is one statement, which is a transaction by itself.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
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
from nextcloud_mcp_server.backends.postgresql.limits import Cutter, Limits
from nextcloud_mcp_server.concurrency import run_to_the_end, start
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.settings import pool_size

if TYPE_CHECKING:
    from nextcloud_mcp_server.filesystem.server_url import ServerUrl

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two attempts, at first and at most.
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.5

#: The begin of a write in one message, whatever the isolation of the database is. Not READ WRITE:
#: a standby would refuse that as something that it cannot do at all.
_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED; "
    "SET LOCAL statement_timeout TO '15s'; "
    "SET LOCAL idle_in_transaction_session_timeout TO '60s'"
)

#: After these the same statement can succeed on a new connection: a plan that is out of date, a
#: server that has become a standby.
_NEW_CONNECTION: Final = frozenset({"0A000", "25006"})

#: After these the same transaction can succeed: a deadlock, a conflict of snapshots.
_AGAIN: Final = frozenset({"40001", "40P01"})

#: The classes of errors after which the server or a pooler closes the connection, a moment later.
_LOST: Final = ("08", "57P")

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
        begun: when it was passed to the pool, by the monotonic clock.
    """

    unit: Callable[[Connection], Any]
    writes: bool
    again: bool
    begun: float


class Link:
    """The connection of one thread, opened when it is needed and opened again when it is lost.

    Args:
        server: the server.
        compiled: the compiled statements, by schema; shared by all links.
        limits: the time limits of the pool.
    """

    def __init__(self, server: Server, compiled: dict[str, Prepare], limits: Limits) -> None:
        self._server = server
        self._compiled = compiled
        self.limits: Final = limits
        self._connection: psycopg.Connection[Any] | None = None
        self._cutter: Cutter | None = None
        self._door: DriverConnection | None = None
        self._executed = 0

    def door(self) -> DriverConnection:
        """Return what a unit is called with; connect if there is no connection.

        Raises:
            psycopg.Error: the server cannot be reached.
            TokenStorageError: it has no schema for this role.
        """
        if self._door is None:
            try:
                self._door = self._open()
            except BaseException:
                self.close()
                raise
        return self._door

    def _open(self) -> DriverConnection:
        self._connection = connection = self._server.connect()
        self._executed += 1
        self._cutter = Cutter(connection.fileno())
        self.limits.add(self)
        facts = read_facts(connection, self._server.url)
        if facts.direct:
            connection.prepare_threshold = 2
        if facts.schema not in self._compiled:
            self._compiled[facts.schema] = statements(facts.schema)
        tables = sorted({table for table, _ in ENCRYPTED} | {"oauth_sessions", "audit_logs"})
        [(triggers,)] = connection.execute(_TRIGGERS, [facts.schema, tables]).fetchall()
        return DriverConnection(
            connection.cursor(), self._compiled[facts.schema], has_triggers=triggers
        )

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, which may be lost."""
        return self._door is not None

    def execute(self, sql: str) -> str:
        """Execute a statement of the transaction; return the server's answer."""
        if self._connection is None:
            raise psycopg.InterfaceError("there is no connection")
        self._executed += 1
        return self._connection.execute(sql).statusmessage or ""

    @property
    def status(self) -> TransactionStatus:
        """Whether it is in a transaction; UNKNOWN without a connection."""
        connection = self._connection
        if connection is None or connection.closed:
            return TransactionStatus.UNKNOWN
        return connection.info.transaction_status

    def running(self) -> object:
        """Return a value that changes with each statement; None if none runs."""
        door = self._door
        with suppress(psycopg.Error):
            if self.status is TransactionStatus.ACTIVE:
                return self._executed, door.executed if door else 0
        return None

    def cut(self) -> None:
        """Let the running statement fail."""
        if (cutter := self._cutter) is not None:
            cutter.cut()

    def close(self) -> None:
        """Close the connection, which may be lost already."""
        connection, self._connection, self._door = self._connection, None, None
        self.limits.remove(self)
        if connection is not None:
            with suppress(psycopg.Error):
                connection.close()
        if self._cutter is not None:
            self._cutter.close()
            self._cutter = None

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
        limits: how long a unit may take.
    """

    def __init__(self, server: Server, limits: Limits | None = None) -> None:
        self._server = server
        self._process = os.getpid()
        self._limits = limits = limits or Limits()
        compiled: dict[str, Prepare] = {}
        self._lane = Lane(
            "token-store",
            pool_size(),
            Driver(lambda: Link(server, compiled, limits), lambda _: True, Link.close),
            self._carry_out,
            self._named,
            # Each unit waits for the network: they are to wait at the same time.
            batch=1,
        )
        # Called before that of the lane, which waits for the units.
        atexit.register(limits.close)

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run a unit of one statement, which is a transaction by itself."""
        return self._lane.run(Work(unit, writes=False, again=True, begun=time.monotonic()))

    def write(self, unit: Callable[[Connection], T], *, again: bool = False) -> Awaitable[T]:
        """Run ``unit`` in a transaction; return after a durable commit.

        Raises:
            TokenStorageError: ``outcome-unknown`` if the connection was lost during the commit,
                and the unit may not run ``again``.
        """
        return self._lane.run(Work(unit, writes=True, again=again, begun=time.monotonic()))

    def check(self) -> None:
        """Do nothing: nobody can replace the database under an open connection."""

    async def close(self) -> None:
        """Finish the running units, then close every connection.

        Units that the server has not answered after some seconds fail.
        """
        atexit.unregister(self._limits.close)
        self._limits.close()
        try:
            await run_to_the_end(lambda _: self._close(), name="token-store-close")
        except TokenStorageError as error:
            if error.code != "no-thread":
                raise
            self._close()

    def _close(self) -> None:
        self._lane.close()
        self._limits.end()

    def abandon(self) -> None:
        """Close the pool of a store that was never closed, and warn."""
        if os.getpid() != self._process:
            return
        atexit.unregister(self._limits.close)
        self._limits.close()
        # A thread of the lane cannot wait for itself, and the garbage collector may call this in
        # any thread.
        with suppress(TokenStorageError):
            start(threading.Thread(target=self._close, name="token-store-close"))
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
        psycopg.Error: the error of the server, or the last one after the time limit of the pool.
        TokenStorageError: ``outcome-unknown``.
    """
    limits, pause, renewed = link.limits, _FIRST_PAUSE, False
    while True:
        attempt = _Attempt(link, work)
        try:
            return attempt.run()
        except psycopg.Error as error:
            lost = _is_lost(link, error)
            if lost:
                limits.failed(error)
                link.close()
                if attempt.is_committing and not work.again:
                    raise _outcome_unknown(url) from None
            stale = error.sqlstate in _NEW_CONNECTION and not renewed
            link.settle()
            if stale:
                renewed = True
                link.close()
            elif not (lost or error.sqlstate in _AGAIN):
                raise
            if time.monotonic() + pause >= limits.deadline(work.begun):
                raise
            logger.debug("again, after %s", type(error).__name__)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        except BaseException:
            link.settle()
            raise


def _is_lost(link: Link, error: psycopg.Error) -> bool:
    return link.status is TransactionStatus.UNKNOWN or (error.sqlstate or "").startswith(_LOST)


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
        if not link.is_connected:
            link.limits.require_time(work.begun)
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
