"""The lock of a migration: an advisory lock of its own transaction, polled.

A waiter that blocks would hold a connection of a pooler, a snapshot that ``CREATE INDEX
CONCURRENTLY`` waits for, and could be cancelled by anybody's ``statement_timeout``. The lock, the
second look, the migration and its commit are one transaction on one connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from sqlalchemy import NullPool, create_engine
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from nextcloud_mcp_server import forks
from nextcloud_mcp_server.backends.base import Snapshot, Transaction, WaitInterrupted
from nextcloud_mcp_server.backends.postgresql.catalog import connected, why_read_only
from nextcloud_mcp_server.backends.postgresql.connect import (
    Server,
    application_name,
    interrupted,
    no_schema,
)
from nextcloud_mcp_server.backends.postgresql.errors import (
    is_lock_conflict,
    named,
    not_writable,
    remove_values,
)
from nextcloud_mcp_server.backends.postgresql.transaction import PostgresTransaction
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two attempts to take the lock.
_POLL: Final = 0.04

#: Seconds between two log lines of a wait.
_TELL_INTERVAL: Final = 5.0

#: Seconds that a statement of a migration waits for a lock. One that waits blocks every later
#: reader of the table, so it gives up soon, and the migration is tried again.
_LOCK_TIMEOUT: Final = 3

#: Seconds after which the server ends a migration whose process was stopped. Longer than what a
#: migration does between two statements.
_IDLE_TIMEOUT: Final = 300

#: What is set in the transaction of a migration. ``SET LOCAL`` is safe behind a pooler. The one
#: schema is named alone: with ``ours, public`` a version table of another application in public
#: would be taken for ours. The log of the server gets no row that a constraint refuses, if this
#: role may choose that.
_SETTINGS: Final = """
SET LOCAL search_path TO {schema};
SET LOCAL lock_timeout TO '{lock}s';
SET LOCAL statement_timeout TO 0;
SET LOCAL idle_in_transaction_session_timeout TO '{idle}s';
SET LOCAL application_name TO '{name}';
SELECT pg_catalog.set_config('log_error_verbosity', 'terse', true)
WHERE pg_catalog.has_parameter_privilege('log_error_verbosity', 'SET')
"""

_BEGIN: Final = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE"

_TRY: Final = "SELECT pg_catalog.pg_try_advisory_xact_lock({key})"

_HOLDER: Final = """
SELECT a.pid, a.application_name, extract(epoch FROM clock_timestamp() - a.xact_start)::int
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.classid = ({key}::bigint >> 32 & 4294967295)::oid
  AND l.objid = ({key}::bigint & 4294967295)::oid
"""


def lock_key(schema: str) -> int:
    """Return the key of the advisory lock of a schema: a signed number of 64 bits."""
    digest = hashlib.sha256(f"nextcloud-mcp-server token store\0{schema}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def settings(schema: str, activity: str = "") -> str:
    """Return the statements that begin the transaction of a migration."""
    name = application_name(activity).replace("'", "''")
    return _SETTINGS.format(
        schema=quoted(schema), lock=_LOCK_TIMEOUT, idle=_IDLE_TIMEOUT, name=name
    )


@contextmanager
def exclusive(
    server: Server,
    history: History,
    timeout: float,
    cancelled: Callable[[], bool],
    *,
    dump: Path | None = None,
) -> Iterator[LockedServer]:
    """Hold the lock of the schema.

    Args:
        server: the server.
        history: the revisions, with their tables.
        timeout: seconds to wait for locks at most.
        cancelled: polled while waiting; True ends the wait.
        dump: the file for a dump before a migration; None for none.

    Raises:
        TokenStorageError: ``lock-timeout``, ``interrupted`` if cancelled, ``unreachable``.
    """
    first = server.wait(timeout, cancelled, for_nobody=True, autocommit=False)
    opened = [first]
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: opened.pop() if opened else server.connect(autocommit=False),
        poolclass=NullPool,
        hide_parameters=True,
    )
    try:
        # Connected first: SQLAlchemy ends the first transaction of an engine.
        with engine.connect() as connection:
            locked = LockedServer(
                server, history, connection, timeout=timeout, cancelled=cancelled, dump=dump
            )
            locked.acquire()
            yield locked
    except Exception as error:
        known = named(error, server.url)
        remove_values(error)
        if known is None or known is error:
            raise
        raise known from error
    finally:
        for unused in opened:
            unused.close()
        engine.dispose()


class LockedServer:
    """A schema in the thread that holds its lock.

    Args:
        server: the server.
        history: the revisions, with their tables.
        connection: of SQLAlchemy, on the connection of the driver.
        timeout: seconds to wait for locks at most.
        cancelled: polled while waiting.
        dump: the file for a dump before a migration; None for none.
    """

    def __init__(
        self,
        server: Server,
        history: History,
        connection: Connection,
        *,
        timeout: float,
        cancelled: Callable[[], bool],
        dump: Path | None = None,
    ) -> None:
        self._server = server
        self._url = server.url
        self._dump = dump
        self._made: list[Path] = []
        self._connection = connection
        self._timeout = timeout
        self._cancelled = cancelled
        self._activity = ""
        made = connection.connection.driver_connection
        assert isinstance(made, psycopg.Connection)  # noqa: S101 - for the type checker
        self._driver: psycopg.Connection[Any] = made
        self._place, self._facts = connected(server, made, history)
        server.warn(self._facts)
        connection.rollback()

    @property
    def unlocked(self) -> str:
        """Return nothing: a server can always lock."""
        return ""

    @cached_property
    def read_only(self) -> str:
        """Return why the server, or the grants of this role, let it be read only."""
        return why_read_only(self._place, self._facts, self._url)

    def acquire(self) -> None:
        """Begin a transaction that holds the lock, unless nothing can be written here."""
        if self._facts.read_only:
            return
        begun = told = time.monotonic()
        key = lock_key(self._place.schema)
        while not self._try(key):
            now = time.monotonic()
            if self._cancelled():
                raise interrupted(self._url)
            if now >= begun + self._timeout:
                raise TokenStorageError(
                    f"{self._url} was not free within {self._timeout:g} seconds: "
                    f"{self._holder(key)}.",
                    code="lock-timeout",
                    remedy="Let that process finish or stop it, then try again; "
                    "TOKEN_STORAGE_LOCK_TIMEOUT sets the seconds to wait.",
                )
            if now >= told + _TELL_INTERVAL:
                told = now
                logger.warning("Waiting for %s: %s", self._url, self._holder(key))
            try:
                forks.sleep(min(_POLL, begun + self._timeout - now))
            except KeyboardInterrupt as error:
                raise WaitInterrupted from error

    def _try(self, key: int) -> bool:
        self._connection.begin()
        self._execute(_BEGIN)
        self._execute(settings(self._place.schema, self._activity))
        [(taken,)] = self._place.rows(_TRY.format(key=key))
        if not taken:
            self._connection.rollback()
        return bool(taken)

    def _execute(self, sql: str) -> None:
        self._driver.execute(sql)

    def _holder(self, key: int) -> str:
        """Return who holds the lock, as far as this role may see it."""
        rows = self._place.rows(_HOLDER.format(key=key))
        self._connection.rollback()
        if not rows:
            return "it was released just now"
        pid, name, seconds = rows[0]
        since = "" if seconds is None else f" for {seconds} s"
        return f"held{since} by {name or 'another role'} (server process {pid})"

    def announce(self, activity: str) -> None:
        """Name the activity in ``application_name``, until the transaction ends."""
        self._activity = activity
        if self._connection.in_transaction():
            name = application_name(activity).replace("'", "''")
            self._execute(f"SET LOCAL application_name TO '{name}'")

    def require_writable(self) -> None:
        """Fail if the server takes no write, or this role may not create a table."""
        if self._facts.read_only:
            raise not_writable(self._url, self._facts.read_only)
        rows = self._place.rows(
            "SELECT has_schema_privilege(%s, 'CREATE'), current_user", [self._place.schema]
        )
        [(may_create, role)] = rows
        if not may_create:
            schema = quoted(self._place.schema)
            raise TokenStorageError(
                f"{self._url} has to be changed, and the role {role} may not create tables "
                f"in the schema {schema}.",
                code="missing-grant",
                remedy=f"As the owner of the schema: GRANT USAGE, CREATE ON SCHEMA {schema} TO "
                f"{quoted(role)}; - or run the upgrade as its owner",
            )

    def make_private(self) -> None:
        """Do nothing: the server knows its users."""

    def inspect(self, *, samples: bool = False) -> Snapshot:
        """Read the catalog in the transaction that holds the lock, as far as this role may."""
        _ = self.read_only
        return self._place.snapshot(samples=samples)

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Call ``work`` in the transaction that holds the lock, and commit.

        If a statement gives up the wait for a lock, all of it is undone and tried again.
        """
        if not self._connection.in_transaction():
            self.acquire()
        if self._facts.read_only:
            raise not_writable(self._url, self._facts.read_only)
        deadline = time.monotonic() + self._timeout
        try:
            # A snapshot for a dump cannot be exported from a savepoint.
            with_dump = self._dump is not None
            result = self._attempt(work) if with_dump else self._until(deadline, work)
            self._commit()
        except BaseException:
            with suppress(Exception):
                self._connection.rollback()
            # The database is as it was, and the next attempt writes the file again.
            for dump in self._made:
                with suppress(OSError):
                    dump.unlink()
            raise
        return result

    def _until(self, deadline: float, work: Callable[[Transaction], T]) -> T:
        while True:
            savepoint = self._connection.begin_nested()
            try:
                result = self._attempt(work)
            except Exception as error:
                if not is_lock_conflict(error) or time.monotonic() >= deadline:
                    raise
                logger.warning("%s: another transaction holds a lock; trying again", self._url)
                # The advisory lock stays; the locks of tables go.
                savepoint.rollback()
                if self._cancelled():
                    raise interrupted(self._url) from None
                time.sleep(_LOCK_TIMEOUT / 10)
            else:
                savepoint.commit()
                return result

    def _attempt(self, work: Callable[[Transaction], T]) -> T:
        result = work(
            PostgresTransaction(self._connection, self._place, self._server, self._dump, self._made)
        )
        # COMMIT would answer ROLLBACK, and raise nothing.
        if self._driver.info.transaction_status is not psycopg.pq.TransactionStatus.INTRANS:
            raise TokenStorageError(
                f"A statement on {self._url} failed, and its error was hidden; nothing was "
                "changed.",
                code="migration-failed",
                remedy="In a migration, let errors of the database through.",
            )
        return result

    def _commit(self) -> None:
        answer = self._driver.execute("COMMIT").statusmessage
        # Nothing is left to commit for SQLAlchemy.
        self._connection.commit()
        if answer != "COMMIT":
            raise TokenStorageError(
                f"{self._url} answered {answer} to COMMIT; nothing was changed.",
                code="migration-failed",
                remedy="Try again; if it happens again, report this message.",
            )

    def is_finished(self, _snapshot: Snapshot) -> bool:
        """Return True: there is nothing to do after a commit."""
        return True

    def finish(self) -> str:
        """Return no journal mode."""
        return ""


@asynccontextmanager
async def session(server: Server, lock_timeout: float) -> AsyncIterator[AsyncConnection]:
    """Yield a connection in a transaction that holds the lock; commit if the body ends well."""
    engine = create_async_engine(
        "postgresql+psycopg://",
        async_creator=server.connect_async,
        poolclass=NullPool,
        hide_parameters=True,
    )
    deadline = time.monotonic() + lock_timeout
    try:
        async with engine.connect() as connection:
            schema = (await connection.exec_driver_sql("SELECT current_schema()")).scalar()
            await connection.rollback()
            if schema is None:
                with closing(server.connect()) as other:
                    raise no_schema(other, server.url)
            key = lock_key(str(schema))
            while not await _taken(connection, str(schema), key):
                if time.monotonic() >= deadline:
                    raise TokenStorageError(
                        f"{server.url} was not free within {lock_timeout:g} seconds.",
                        code="lock-timeout",
                        remedy="Let the process that migrates it finish, then try again.",
                    )
                await asyncio.sleep(_POLL)
            yield connection
            await connection.commit()
    except Exception as error:
        remove_values(error)
        raise
    finally:
        await engine.dispose()


async def _taken(connection: AsyncConnection, schema: str, key: int) -> bool:
    await connection.exec_driver_sql(_BEGIN)
    await connection.exec_driver_sql(settings(schema))
    taken = (await connection.exec_driver_sql(_TRY.format(key=key))).scalar()
    if not taken:
        await connection.rollback()
    return bool(taken)
