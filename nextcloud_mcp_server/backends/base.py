"""The engine seam: what the rest of the program may ask of a database, whatever runs it.

Everything above ``backends/`` uses a :class:`Database`, never a path, a driver or a PRAGMA.
:mod:`nextcloud_mcp_server.backends.connect` chooses the engine. A new engine implements these
protocols and passes ``tests/backends/contract``.

A *unit of work* is a plain function that executes prebuilt SQLAlchemy Core statements on the
:class:`Connection` it is given. It never sees a pool, a driver or a dialect name, so the
engine is free to decide how, where and with which others it runs.
"""

from __future__ import annotations

from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.schema.structure import Gaps, Structure, Table

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from pathlib import Path
    from typing import Protocol

    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncConnection

    from nextcloud_mcp_server.errors import TokenStorageError
    from nextcloud_mcp_server.filesystem.server_url import ServerUrl
    from nextcloud_mcp_server.progress import Reporter
    from nextcloud_mcp_server.schema.history import History
    from nextcloud_mcp_server.schema.reference import Reference
else:
    # Nothing checks these protocols at runtime, and creating ten takes a fiftieth of `db current`.
    Protocol = object

T = TypeVar("T")

#: The most encrypted values of one column that are read to verify the keys; all are read only
#: if one of these cannot be decrypted.
SAMPLE_SIZE = 16


class Snapshot(NamedTuple):
    """What an inspection reads from a database, as of one moment.

    Attributes:
        structure: tables, columns, indexes.
        versions: the rows of the version table; None without the table.
        version_column: whether the version table is Alembic's (has ``version_num``).
        journal_mode: SQLite's journal mode, lower case; empty without a file and on other engines.
        damage: ``corrupt``, ``not-a-database``, ``inconsistent`` or ``orphaned``; empty for a
            readable database.
        detail: the engine's description of the damage.
        companion: the file beside the database that makes it ``orphaned``.
        samples: the first encrypted value and the newest of each column, each once, if they were
            asked for and can be read.
        exists: whether there is a database.
        keys: the registered keys, if samples were asked for.
    """

    structure: Structure = Structure()
    versions: tuple[str | None, ...] | None = None
    version_column: bool = True
    journal_mode: str = ""
    damage: str = ""
    detail: str = ""
    samples: tuple[bytes, ...] | None = None
    exists: bool = True
    companion: str = ""
    keys: tuple[RegisteredKey, ...] = ()


class WaitInterrupted(KeyboardInterrupt):
    """Ctrl-C during the wait for a lock: nothing was changed."""


class RecoveryNeededError(Exception):
    """A crashed writer left changes that must be rolled back before anyone can read."""


class Hold(Protocol):
    """The marker "in use", from an open store until it is released."""

    def release(self) -> None:
        """Remove the marker. Safe to call twice."""


class Database(Protocol):
    """The place of a database. Constructing one opens nothing; ``str()`` names it."""

    @property
    def location(self) -> Path | ServerUrl:
        """The path of a file, or the URL of a server; ``str()`` has no password."""

    @property
    def option(self) -> str:
        """How a command names this database, for remedies: ``-d tokens.db``."""

    @property
    def directory(self) -> Path | None:
        """The folder for a key file and backups; None if there is no such place."""

    @property
    def history(self) -> History:
        """The revisions of this program, with their structures on this engine."""

    def check(self) -> None:
        """Check that a database can be here. Changes nothing.

        Raises:
            TokenStorageError: ``bad-path``.
        """

    def require_trusted(self) -> None:
        """Fail if another user can have put or changed a file of the database. Changes nothing.

        Raises:
            TokenStorageError: ``untrusted``; ``bad-path`` if it has a second name.
        """

    def locking_creates_files(self) -> bool:
        """Whether :meth:`lock` would create something that stays, such as a lock file."""

    def require_own_lock(self) -> None:
        """Fail if what :meth:`lock` would lock is of another program. Changes nothing."""

    def warnings(self) -> Iterable[str]:
        """Return what an operator should change about the place, one sentence each."""

    def former(self) -> str:
        """Return a warning if a database was here before; empty if nothing is left of one."""

    def vanished(self, tables: Iterable[str]) -> Iterable[str]:
        """Return a warning for each backup with rows of ``tables``, which are missing here."""

    def always_empty(self, tables: Iterable[str]) -> Collection[str]:
        """Return those of ``tables``, missing here, that no backup has rows of, and one has."""

    def unwritable(self) -> str:
        """Return why this user cannot write to the database; empty if it can."""

    def require_writable(self) -> None:
        """Fail if an existing database cannot be written. Changes nothing.

        Raises:
            TokenStorageError: ``read-only``.
        """

    def identity(self) -> Hashable:
        """Return a value that changes if the database is replaced; None if it is missing."""

    def wal_size(self) -> int:
        """Return the bytes of commits that are not in the database file yet; 0 without any."""

    def inspect(self, *, samples: bool = False) -> Snapshot:
        """Read the database without a lock and without changing it.

        A crashed database is read as it will be after its recovery.

        Args:
            samples: whether to read some encrypted values too.

        Raises:
            TokenStorageError: the operating system or the server does not let it be read.
        """

    def check_integrity(self) -> str:
        """Return what the engine's own check finds wrong; empty if the database is sound."""

    def unusable(self, wanted: Mapping[str, Table]) -> Mapping[str, str]:
        """Return the existing tables of ``wanted`` that the store cannot use, with the reason."""

    def samples(self, columns: Iterable[tuple[str, str]], limit: int | None) -> Iterable[bytes]:
        """Read up to ``limit`` (None: all) encrypted values of each existing (table, column)."""

    def newest(
        self, table: str, columns: Sequence[str], limit: int | None
    ) -> list[Sequence[Any]] | None:
        """Return up to ``limit`` rows by descending ``id``; None without such a table."""

    def compact(self) -> None:
        """Let a file hold the values of its rows only, and nothing that was deleted or replaced.

        Stores may be open on it. The identity of the file and its rows do not change.

        Raises:
            TokenStorageError: it may hold such values still, because ``disk-full``,
                ``lock-timeout`` or another error prevented that.
        """

    def lock(
        self, timeout: float, cancelled: Callable[[], bool] = ..., *, shared: bool = False
    ) -> AbstractContextManager[LockedDatabase]:
        """Hold the lock that every migration takes.

        Args:
            timeout: seconds to wait at most.
            cancelled: polled while waiting; True ends the wait.
            shared: hold it together with others that only inspect.

        Raises:
            TokenStorageError: ``lock-timeout``, ``interrupted`` if cancelled.
        """

    def hold(self) -> Hold | None:
        """Mark the database as in use by an open store. To be called under the lock."""

    def require_idle(self, *, while_running: bool = False) -> None:
        """Fail if a store is open on the database, unless ``while_running``.

        Raises:
            TokenStorageError: ``in-use``.
        """

    def open_pool(
        self,
        journal_mode: str,
        hold: Hold | None,
        *,
        read_only: str = "",
        opened: Any = None,
    ) -> Pool:
        """Return a pool on the database, which is at head.

        Args:
            journal_mode: what the start left the database in.
            hold: released when the pool is closed.
            read_only: why it can only be read; empty if it can be written.
            opened: the :meth:`identity` of the database that the start prepared.
        """

    def session(self, lock_timeout: float = ...) -> AbstractAsyncContextManager[AsyncConnection]:
        """Hold the lock and yield a connection in one write transaction, for ``env.py``."""

    def translate(self, error: BaseException) -> TokenStorageError | None:
        """Return the named error for an exception of the driver; None for any other."""


class LockedDatabase(Protocol):
    """A database while its lock is held. Used only in the thread that took the lock."""

    @property
    def unlocked(self) -> str:
        """Why there is no lock, though nobody holds it; empty if it is held."""

    @property
    def read_only(self) -> str:
        """Why nothing may be changed; empty if it may."""

    def announce(self, activity: str) -> None:
        """Show ``activity`` to the processes that wait for the lock."""

    def require_writable(self) -> None:
        """Fail if the lock or a permission is missing.

        Raises:
            TokenStorageError: ``read-only`` or ``lock-unavailable``.
        """

    def make_private(self) -> None:
        """Take files of this user that every user can use away from the others."""

    def inspect(self, *, samples: bool = False) -> Snapshot:
        """Read the database, after rolling back what a crashed writer left.

        Raises:
            RecoveryNeededError: there is something to roll back and the lock is shared.
        """

    def transact(self, work: Callable[[Transaction], T]) -> T:
        """Call ``work`` in one write transaction and commit if it returns.

        If ``work`` raises, the database is as it was, and a backup that was made in the
        transaction is deleted unless the failure is damage. ``work`` may be called again.
        """

    def is_finished(self, snapshot: Snapshot) -> bool:
        """Return whether :meth:`finish` has nothing to do."""

    def finish(self) -> str:
        """Prepare the database for serving, after the commit; return its journal mode."""


class Transaction(Protocol):
    """One write transaction. Nothing is visible to others before its commit."""

    @property
    def connection(self) -> sqlalchemy.Connection:
        """The synchronous connection, which Alembic is given."""

    def execute(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        """Execute one statement and return its rows.

        Args:
            sql: the statement, as it is written; with parameters, ``:name`` stands for each.
            parameters: the values.
        """

    def structure(self) -> Structure:
        """Read the names of all tables, columns and indexes."""

    def versions(self) -> tuple[str | None, ...]:
        """Read the rows of the version table."""

    def count(self, table: str) -> int:
        """Count the rows of one table."""

    def row_counts(self, structure: Structure) -> dict[str, int]:
        """Count the rows of every table that is not bookkeeping."""

    def broken_references(self) -> set[tuple[Any, ...]]:
        """Return the rows that reference a missing row."""

    def references(self, tables: Collection[str], dropped: Collection[str]) -> list[Reference]:
        """Return the foreign keys of ``tables`` with rows that reference a table to drop."""

    def backup(
        self,
        revision: str | None,
        *,
        action: str,
        keys: Sequence[str] | None,
        report: Reporter,
    ) -> Path | None:
        """Back up exactly what this transaction sees, before its first write.

        ``action`` is the change that follows, for the manifest. Returns None if the engine
        makes no backup files.
        """

    def rename_back(self, tables: Iterable[str], prefix: str) -> None:
        """Rename the filled copies of an interrupted table recreation back."""

    def recreate(self, tables: Iterable[str], wanted: Structure) -> None:
        """Recreate disposable tables in their wanted shape, with the rows that fit."""

    def add(self, missing: Gaps, wanted: Structure) -> None:
        """Add missing tables, then columns, then indexes, as ``wanted`` declares them."""

    def drop(self, table: str) -> None:
        """Drop a table if it exists."""

    def keep_attached(self, ours: Iterable[str]) -> AbstractContextManager[None]:
        """Restore the operators' indexes and triggers that the body drops with their table.

        Args:
            ours: names of indexes that the revisions make.
        """


class Row(Protocol):
    """One row: its values by name and by position."""

    @property
    def _fields(self) -> tuple[str, ...]:
        """The names of the columns, in order."""

    def __getattr__(self, name: str) -> Any:
        """Return the value of the column of this name."""

    def __getitem__(self, position: int) -> Any:
        """Return the value of the column at this position."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the values, in order."""


class Connection(Protocol):
    """What a unit of work can do."""

    @property
    def has_triggers(self) -> bool:
        """Whether the database has triggers, which can undo what a unit writes."""

    def all(
        self, statement: sqlalchemy.Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row]:
        """Execute and return every row."""

    def first(
        self, statement: sqlalchemy.Executable, parameters: Mapping[str, Any] | None = None
    ) -> Row | None:
        """Execute and return the first row, or None."""

    def run(
        self, statement: sqlalchemy.Executable, parameters: Mapping[str, Any] | None = None
    ) -> int:
        """Execute a write and return the number of rows it changed."""

    def change(
        self,
        statement: sqlalchemy.Executable,
        following: sqlalchemy.Select[Any],
        parameters: Mapping[str, Any] | None = None,
    ) -> Row | None:
        """Execute a write of one row, then ``following``: on a server in one statement.

        Args:
            statement: the write.
            following: has neither a table nor parameters; it is evaluated after the change.
            parameters: of the write.

        Returns:
            The row of ``following``; None if no row was changed.
        """


class Pool(Protocol):
    """An open database: units of work run through it until it is closed."""

    def read(self, unit: Callable[[Connection], T]) -> Awaitable[T]:
        """Run ``unit`` in a read transaction, on one moment of the database."""

    def write(self, unit: Callable[[Connection], T], *, again: bool = False) -> Awaitable[T]:
        """Run ``unit`` in a write transaction.

        Returns only after a durable commit. If ``unit`` raises, nothing of it is kept and the
        error is raised again. Other units may share its commit; if that fails, the unit is run
        again alone, so it must change nothing but its connection.

        Args:
            unit: the unit of work.
            again: whether it may run twice, if the connection to a server is lost during the
                commit, so that it is unknown whether it happened.

        Raises:
            TokenStorageError: ``outcome-unknown`` if it may not.
        """

    def check(self) -> None:
        """Check that the open database is the one at its place, as every unit does.

        Raises:
            TokenStorageError: ``replaced``.
        """

    async def close(self) -> None:
        """Close every connection. Safe to call twice."""

    def abandon(self) -> None:
        """Close it and warn, because its users are gone. Called in any thread.

        Waits for a moment only: what is not closed then is closed at the exit.
        """
