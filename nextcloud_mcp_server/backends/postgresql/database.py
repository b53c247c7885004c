"""A schema of a PostgreSQL server behind the protocol of :mod:`nextcloud_mcp_server.backends.base`.

Nothing is locked at head: an inspection is one read-only transaction, and it is what a start there
needs. See :mod:`.locked` for the rest.
"""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server.backends.base import Hold, LockedDatabase, Pool, Snapshot
from nextcloud_mcp_server.backends.postgresql.catalog import (
    Place,
    connected,
    why_read_only,
)
from nextcloud_mcp_server.backends.postgresql.connect import Facts, Server
from nextcloud_mcp_server.backends.postgresql.errors import named, not_writable
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.schema.history import History, load_history
from nextcloud_mcp_server.schema.structure import Table, quoted
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

#: Seconds that what only inspects waits for a server that is starting.
_PATIENCE: Final = 10.0

#: One moment of the database, whatever its defaults are.
READ_ONLY: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresDatabase:
    """The tables of this program in one schema of a server.

    Attributes:
        server: the server.
        dump: the file that a dump is written to before a migration; None for no dump.
    """

    def __init__(self, url: ServerUrl, *, dump: Path | None = None) -> None:
        """Take a URL. Nothing is opened.

        Raises:
            TokenStorageError: ``bad-input`` for a URL that libpq cannot read.
        """
        self.server: Final = Server(url)
        self.dump: Final = dump

    def __str__(self) -> str:
        """Return the URL without its passwords."""
        return str(self.server.url)

    def __repr__(self) -> str:
        """Return the URL without its passwords, as an expression."""
        return f"PostgresDatabase({self.server.url!r})"

    @property
    def location(self) -> ServerUrl:
        """Return the URL."""
        return self.server.url

    @property
    def option(self) -> str:
        """Return ``-u URL``, quoted for a shell."""
        return self.server.url.option

    @property
    def directory(self) -> None:
        """Return None: a key beside it would be another one on each machine."""
        return

    @property
    def history(self) -> History:
        """Return the revisions of this program."""
        return load_history(engine="postgresql")

    def check(self) -> None:
        """Do nothing: the URL was read already."""

    def require_trusted(self) -> None:
        """Do nothing: the server knows its users."""

    def locking_creates_files(self) -> bool:
        """Return False."""
        return False

    def require_own_lock(self) -> None:
        """Do nothing: there is no file."""

    def warnings(self) -> Iterable[str]:
        """Return nothing: what is to be said needs a connection, see Server.warn()."""
        return ()

    def former(self) -> str:
        """Look for tables of this program in other schemas of the database."""
        with self.reading() as (place, _):
            other = place.other_schemas()
        if not other:
            return ""
        return (
            f"{self} is created in the schema {place.schema}, and the schema {', '.join(other)} "
            "has tables of this program: if those are meant, stop, and set the search_path of "
            "this role to that schema"
        )

    def vanished(self, tables: Iterable[str]) -> Iterable[str]:
        """Return nothing: there is no backup beside a server."""
        return ()

    def always_empty(self, tables: Iterable[str]) -> Collection[str]:
        """Return nothing: there is no backup beside a server."""
        return ()

    def unwritable(self) -> str:
        """Return why the server takes no write; empty if it does."""
        with self.reading() as (_, facts):
            return facts.read_only

    def require_writable(self) -> None:
        """Fail if the server takes no write."""
        if why := self.unwritable():
            raise not_writable(self.server.url, why)

    def identity(self) -> Hashable:
        """Return the server: nobody can replace the database under an open connection."""
        return self.server.url

    def wal_size(self) -> int:
        """Return 0: the server writes its own log back."""
        return 0

    def inspect(self, *, samples: bool = False) -> Snapshot:
        """Read the catalog in one read-only transaction."""
        with self.reading() as (place, _):
            return place.snapshot(samples=samples)

    def check_integrity(self) -> str:
        """Return nothing: the server checks its own pages."""
        return ""

    def unusable(self, wanted: Mapping[str, Table]) -> Mapping[str, str]:
        """Compare the types; what is missing to read a table is found with the lock."""
        with self.reading() as (place, _):
            return place.unusable(wanted)

    def samples(self, columns: Iterable[tuple[str, str]], limit: int | None) -> Iterator[bytes]:
        """Read encrypted values in one read-only transaction."""
        with self.reading() as (place, _):
            yield from place.samples(list(columns), limit)

    def newest(
        self, table: str, columns: Sequence[str], limit: int | None
    ) -> list[Sequence[Any]] | None:
        """Read the newest rows of a table of this program."""
        with self.reading() as (place, _):
            there = place.structure().tables.get(table)
            if there is None or not {"id", *columns} <= there.columns.keys():
                return None
            names = ", ".join(map(quoted, columns))
            sql = f"SELECT {names} FROM {place.table(table)} ORDER BY id DESC LIMIT %s"  # noqa: S608 - quoted
            return list(place.rows(sql, [limit]))

    def compact(self) -> None:
        """Do nothing: the server reuses the place of what was deleted in its own time."""

    @contextmanager
    def lock(
        self, timeout: float, cancelled: Callable[[], bool] = lambda: False, *, shared: bool = False
    ) -> Iterator[LockedDatabase]:
        """Hold the advisory lock of the schema in the transaction of the migration.

        Shared it is not locked at all: what is read is of one moment, and nothing is changed.
        """
        from nextcloud_mcp_server import forks  # noqa: PLC0415 - as with a file

        with forks.delayed:
            if shared:
                with self.reading(timeout, cancelled, for_nobody=True) as (place, facts):
                    self.server.warn(facts)
                    yield Unlocked(self, place, facts)
                return
            from nextcloud_mcp_server.backends.postgresql.locked import exclusive  # noqa: PLC0415

            with exclusive(self.server, self.history, timeout, cancelled, dump=self.dump) as locked:
                yield locked

    def hold(self) -> Hold | None:
        """Return None: whether a store is open somewhere cannot be known."""
        return None

    def require_idle(self, *, while_running: bool = False) -> None:
        """Do nothing: whether a store is open somewhere cannot be known."""

    def open_pool(
        self,
        journal_mode: str,
        hold: Hold | None,
        *,
        read_only: str = "",
        opened: Any = None,
    ) -> Pool:
        """Return a pool of threads with a connection each."""
        from nextcloud_mcp_server.backends.postgresql.pool import PostgresPool  # noqa: PLC0415

        return PostgresPool(self.server)

    @asynccontextmanager
    async def session(
        self, lock_timeout: float = DEFAULT_LOCK_TIMEOUT
    ) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in the transaction that holds the lock."""
        from nextcloud_mcp_server.backends.postgresql.locked import session  # noqa: PLC0415

        async with session(self.server, lock_timeout) as connection:
            yield connection

    def translate(self, error: BaseException) -> TokenStorageError | None:
        """Decide by the SQLSTATE."""
        return named(error, self.server.url)

    @contextmanager
    def reading(
        self,
        timeout: float = _PATIENCE,
        cancelled: Callable[[], bool] = lambda: False,
        *,
        for_nobody: bool = False,
        snapshot: bool = True,
    ) -> Iterator[tuple[Place, Facts]]:
        """Connect, and yield the place as of one moment; without ``snapshot`` as it is now."""
        connection = self.server.wait(timeout, cancelled, for_nobody=for_nobody)
        try:
            if snapshot:
                connection.execute(READ_ONLY)
            place, facts = connected(self.server, connection, self.history)
            yield place._replace(definitions=False), facts
        except Exception as error:
            known = named(error, self.server.url)
            if known is None or known is error:
                raise
            raise known from error
        finally:
            connection.close()


class Unlocked:
    """A database that is only inspected, in one read-only transaction.

    Args:
        database: the database.
        place: its tables.
        facts: what was found at the server.
    """

    def __init__(self, database: PostgresDatabase, place: Place, facts: Facts) -> None:
        self._database = database
        self._place = place
        self._facts = facts

    @property
    def unlocked(self) -> str:
        """Return nothing: at head no lock is needed."""
        return ""

    @cached_property
    def read_only(self) -> str:
        """Return why the server, or the grants of this role, let it be read only."""
        return why_read_only(self._place, self._facts, self._database.location)

    def announce(self, activity: str) -> None:
        """Do nothing: nobody waits."""

    def require_writable(self) -> None:
        """Fail if the server takes no write."""
        if self._facts.read_only:
            raise not_writable(self._database.location, self._facts.read_only)

    def make_private(self) -> None:
        """Do nothing: the server knows its users."""

    def inspect(self, *, samples: bool = False) -> Snapshot:
        """Read the catalog; fail if this role may not read the tables.

        Raises:
            TokenStorageError: ``missing-grant``.
        """
        _ = self.read_only
        return self._place.snapshot(samples=samples)

    def transact(self, work: Callable[[Any], Any]) -> Any:
        """Fail: it was not locked."""
        raise not_writable(self._database.location, "it is not locked")

    def is_finished(self, _snapshot: Snapshot) -> bool:
        """Return True: there is nothing to do after a commit."""
        return True

    def finish(self) -> str:
        """Return no journal mode."""
        return ""
