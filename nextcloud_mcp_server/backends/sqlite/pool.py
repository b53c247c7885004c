"""The pool that serves: SQLAlchemy's, over aiosqlite. SQLite is never on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy import AsyncAdaptedQueuePool, text

from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.sqlite.engine import SERVING_PRAGMAS, create_engine
from nextcloud_mcp_server.backends.sqlite.faults import always_named
from nextcloud_mcp_server.backends.sqlite.inuse import Hold
from nextcloud_mcp_server.backends.sqlite.look import is_still
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.worker import wait_to_the_end

if TYPE_CHECKING:
    from sqlalchemy import Connection as CoreConnection
    from sqlalchemy import Executable, Row
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

_NOTHING = text("SELECT count(*) FROM sqlite_master")

#: Connections kept open. SQLite has one writer at a time, so more would only wait.
_SIZE = 4


class _Executor:
    """A unit's door to SQLAlchemy's connection."""

    __slots__ = ("_connection",)

    def __init__(self, connection: CoreConnection) -> None:
        self._connection = connection

    def all(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[Any]]:
        return self._connection.execute(statement, parameters).all()

    def first(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Row[Any] | None:
        return self._connection.execute(statement, parameters).first()

    def run(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        return self._connection.execute(statement, parameters).rowcount


def _raise(error: Exception, path: Path) -> NoReturn:
    known = always_named(error, path)
    if known is None or known is error:
        raise error
    # Not chained to SQLAlchemy's error: its statement belongs into no log.
    raise known from None


def _reading(path: Path) -> dict[str, str]:
    """How to open a database that cannot be written."""
    return {"mode": "ro", "immutable": "1"} if is_still(path) else {"mode": "ro"}


class SqlitePool:
    """An open SQLite database."""

    def __init__(
        self, path: Path, journal_mode: str, hold: Hold | None = None, *, read_only: str = ""
    ) -> None:
        """Make the pool; connections are opened when they are first needed.

        Args:
            path: the database file, at head.
            journal_mode: what the start left it in; outside WAL only EXTRA is durable.
            hold: says that the database is in use; released when it is closed.
            read_only: why it can only be read; empty where it can be written.
        """
        self.path = path
        self._hold = hold
        self._read_only = read_only
        pragmas = dict(SERVING_PRAGMAS)
        if journal_mode != "wal":
            pragmas["synchronous"] = "EXTRA"
        self._engine = create_engine(
            path,
            pragmas,
            pool=AsyncAdaptedQueuePool,
            reading=_reading(path) if read_only else None,
            pool_size=_SIZE,
            max_overflow=0,
            pool_timeout=60.0,
        )
        self._reader = self._engine.execution_options(reads_only=True)

        self._tasks: set[asyncio.Task[Any]] = set()

    async def read(self, unit: Callable[[Connection], T]) -> T:
        """Run ``unit`` in a read transaction."""
        return await self._own(self._run(self._reader, unit))

    async def write(self, unit: Callable[[Connection], T]) -> T:
        """Run ``unit`` in a write transaction; the answer comes after a durable commit.

        A caller that is cancelled leaves, and the unit still runs to its end: a grant
        that the provider has already rotated must not be lost on the way to the disk.

        Raises:
            TokenStorageError: ``read-only`` where the database was opened for reading.
        """
        if self._read_only:
            raise TokenStorageError(
                f"{self.path} is open for reading only, because {self._read_only}; "
                "nothing was written.",
                code="read-only",
                remedy="Give this user write access to the file and to its folder, then restart "
                "the server.",
            )
        return await self._own(self._run(self._engine, unit))

    async def _own(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Retrieved: whoever waited may have been cancelled, and asyncio would report it.
            task.exception()

    async def _run(self, engine: AsyncEngine, unit: Callable[[Connection], T]) -> T:
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(lambda core: unit(_Executor(core)))
        except Exception as error:  # noqa: BLE001 - re-raised, by its name where it has one
            _raise(error, self.path)

    async def close(self) -> None:
        """Let what is under way finish, then close every connection.

        The last one writes the WAL back into the file and removes it. Whoever is
        cancelled meanwhile stays until that is done.
        """
        await wait_to_the_end(asyncio.create_task(self._close()))

    async def _close(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)
        # The look at the start leaves a -shm behind, which the last connection removes:
        # there must have been one, although nobody may have asked for anything.
        with suppress(Exception):
            await self._run(self._reader, lambda connection: connection.first(_NOTHING))
        try:
            await self._engine.dispose()
        finally:
            if self._hold is not None:
                self._hold.release()
