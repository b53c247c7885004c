"""An SQLite file behind the protocol of :mod:`nextcloud_mcp_server.backends.base`.

What only inspects a database imports this module: what changes one is imported when it is
used, because SQLAlchemy takes ten times as long to import as an inspection takes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextcloud_mcp_server.backends.base import Hold, LockedDatabase, Pool, Snapshot
from nextcloud_mcp_server.backends.sqlite.catalog import read_structure
from nextcloud_mcp_server.backends.sqlite.connect import (
    connect_read_only,
    has_content,
    require_library,
)
from nextcloud_mcp_server.backends.sqlite.errors import (
    beside_link,
    named,
    naming,
    not_writable,
    several_names,
)
from nextcloud_mcp_server.backends.sqlite.inspect import is_remote, readable
from nextcloud_mcp_server.backends.sqlite.open_files import FileId, file_id, wal_size
from nextcloud_mcp_server.backends.sqlite.secrets import read_secrets
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files, mounts, permissions
from nextcloud_mcp_server.filesystem.paths import absolute
from nextcloud_mcp_server.schema.history import History, load_history
from nextcloud_mcp_server.schema.structure import Table, columns_there, quoted
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT, declared_file_system, trusted_owners

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection


class SqliteDatabase:
    """A database in one file.

    Attributes:
        path: the file itself, even if a link named it: SQLite puts its journal beside the
            file, and so are the lock, the key file and the backups. Absolute.
    """

    def __init__(self, path: Path) -> None:
        """Take the path of a file, which need not exist.

        The path is absolute and without links from here on: every connection and every file
        beside the database uses it, whatever becomes of the working directory or of a link.
        """
        path = absolute(path)
        self._given = path
        # A link to a missing file stays one: check() refuses it.
        whole = os.path.exists(path) or not os.path.islink(path)  # noqa: PTH110, PTH114 - raise nothing
        self.path = files.follow(path) if whole else files.follow(path.parent) / path.name

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    def __repr__(self) -> str:
        """Return the path, as an expression."""
        return f"SqliteDatabase({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        """Compare the paths."""
        return isinstance(other, SqliteDatabase) and other.path == self.path

    def __hash__(self) -> int:
        """Hash the path."""
        return hash(self.path)

    @property
    def location(self) -> Path:
        """Return the path."""
        return self.path

    @property
    def option(self) -> str:
        """Return ``-d PATH``, quoted for a shell."""
        return f"-d {for_shell(self.path)}"

    @property
    def directory(self) -> Path:
        """Return the folder of the file."""
        return self.path.parent

    @property
    def history(self) -> History:
        """Return the revisions of this program."""
        return load_history()

    def check(self) -> None:
        """Check that the path can hold a database file, and the version of SQLite."""
        require_library()
        self._require_own_name()
        self._require_nothing_beside_link()
        files.check_path(self.path)
        files.require_folder(self.path)

    def _require_own_name(self) -> None:
        own = self.path.name
        for suffix in (*files.BESIDE[1:], ".key"):
            if not own.endswith(suffix) or own == suffix:
                continue
            database = self.path.with_name(own.removesuffix(suffix))
            if database.is_file():
                raise TokenStorageError(
                    f"{self.path} is the name of a file that belongs to {database}.",
                    code="bad-path",
                    remedy=f"Give the database itself: -d {for_shell(database)}",
                )

    def _require_nothing_beside_link(self) -> None:
        """Fail if the link that was given has what belongs to a database beside it."""
        if self._given == self.path or not os.path.islink(self._given):  # noqa: PTH114 - as above
            return
        for suffix in ("-wal", "-journal"):
            if has_content(self._given, suffix):
                raise beside_link(self._given, self.path, suffix)

    def require_trusted(self) -> None:
        """Check the owners and modes of the file and of all beside it, but for the key.

        A hard link has a lock and a journal of its own, and who uses it is not seen.
        """
        if (number := files.names_of(self.path)) > 1:
            raise several_names(self.path, number)
        trusted = trusted_owners()
        for suffix in files.BESIDE:
            file = f"{self.path}{suffix}"
            if permissions.is_private(file):
                continue
            # What is in a lock file is only shown.
            forbidden = 0 if suffix in files.LOCKS else stat.S_IWOTH
            permissions.require_trusted(file, self.path, trusted, forbidden=forbidden)

    def locking_creates_files(self) -> bool:
        """Return whether there is no lock file yet, and one can be made."""
        if os.path.exists(f"{self.path}.lock"):  # noqa: PTH110 - faster than a Path
            return False
        folder = self.path.parent
        return not folder.exists() or permissions.may(folder, os.W_OK | os.X_OK)

    def require_own_lock(self) -> None:
        """Look at what lies where the lock file should; an empty file may be of this program."""
        try:
            status = os.lstat(f"{self.path}.lock")
        except OSError:
            return
        if status.st_size or not stat.S_ISREG(status.st_mode):
            from nextcloud_mcp_server.backends.sqlite.lock import require_own  # noqa: PLC0415 - see above

            require_own(self.path)

    def warnings(self) -> Iterator[str]:
        """Warn about a file system that may be remote."""
        if self._remote and not declared_file_system():
            kind = mounts.type_of(self.path) or "unknown"
            yield (
                f"{self.path} is on a file system that is not known to be local (its type is "
                f"{kind}), so WAL is not used: set TOKEN_STORAGE_FILESYSTEM=local if only this "
                "machine uses it, else TOKEN_STORAGE_FILESYSTEM=remote"
            )

    def former(self) -> str:
        """Look for backups beside the file."""
        number = self._backups()
        if not number:
            return ""
        made = "a backup of it is" if number == 1 else f"{number} backups of it are"
        return (
            f"{self.path} has no table, but {made} beside it: a new database is created. To have "
            "the old one back, stop the server and run: nextcloud-mcp-server db restore --newest "
            f"{self.option}"
        )

    def vanished(self, tables: Iterable[str]) -> Iterator[str]:
        """Look for rows of the tables in the manifests of the backups beside the file."""
        from nextcloud_mcp_server.backends.sqlite.backup_files import (  # noqa: PLC0415
            described,
            lost_rows,
        )

        for backup, rows in lost_rows(self.path, tables).items():
            yield (
                f"{self.path} lacks {', '.join(rows)}, which is added, empty. The backup {backup} "
                f"has {described(rows)}. To have them back, stop the server and run: "
                f"nextcloud-mcp-server db restore {for_shell(backup)} {self.option}"
            )

    def always_empty(self, tables: Iterable[str]) -> Set[str]:
        """Look for the tables in the manifests of the backups beside the file."""
        from nextcloud_mcp_server.backends.sqlite.backup_files import find_backups  # noqa: PLC0415

        rows: dict[str, int] = {}
        with suppress(OSError):
            for one in find_backups(self.path):
                for table, number in (one.manifest.rows if one.manifest else {}).items():
                    rows[table] = rows.get(table, 0) + number
        return {table for table in tables if rows.get(table) == 0}

    def _backups(self) -> int:
        """Count the backups beside the file, as far as the folder can be read."""
        from nextcloud_mcp_server.backends.sqlite.backup_files import find_backups  # noqa: PLC0415

        with suppress(OSError):
            return len(find_backups(self.path))
        return 0

    @cached_property
    def _remote(self) -> bool:
        return is_remote(self.path)

    def unwritable(self) -> str:
        """Return the file, folder or mount that cannot be written."""
        return permissions.unwritable(self.path)

    def require_writable(self) -> None:
        """Fail if an existing database cannot be written. Changes nothing."""
        if reason := self.unwritable():
            raise not_writable(self.path, reason)

    def identity(self) -> FileId | None:
        """Return device and inode."""
        try:
            return file_id(self.path)
        except OSError:
            return None

    def wal_size(self) -> int:
        """Return the size of the ``-wal``."""
        return wal_size(self.path)

    def inspect(self, *, samples: bool = False) -> Snapshot:
        """Read the file, or a recovered copy of it after a crash."""
        known = load_history().known
        with readable(self.path, known, sampling=samples) as (_, snapshot):
            return snapshot

    def check_integrity(self) -> str:
        """Run ``quick_check``, on a recovered copy after a crash; log what it cannot check."""
        import logging  # noqa: PLC0415 - see above

        from nextcloud_mcp_server.backends.sqlite.integrity import (  # noqa: PLC0415
            Checked,
            check_file,
        )

        logger = logging.getLogger(__name__)

        with readable(self.path) as (source, snapshot):
            # A file that is missing or empty has no page.
            checked = check_file(source) if snapshot.journal_mode else Checked()
        for table in checked.unchecked:
            logger.warning("The pages of this table of %s cannot be checked: %s", self, table)
        return "; ".join(checked.damage[:3])

    def unusable(self, wanted: Mapping[str, Table]) -> dict[str, str]:
        """Prepare statements on the file, or on a recovered copy after a crash."""
        from nextcloud_mcp_server.backends.sqlite.usable import unusable_in  # noqa: PLC0415 - see above

        with readable(self.path) as (source, snapshot):
            return unusable_in(source, wanted) if snapshot.journal_mode else {}

    def samples(self, columns: Iterable[tuple[str, str]], limit: int | None) -> Iterator[bytes]:
        """Read encrypted values, from a recovered copy after a crash."""
        with readable(self.path) as (source, snapshot):
            if there := columns_there(snapshot.structure, columns):
                with naming(source), closing(connect_read_only(source)) as connection:
                    yield from (value for _, value in read_secrets(connection, there, limit))

    def newest(
        self, table: str, columns: Sequence[str], limit: int | None
    ) -> list[Sequence[Any]] | None:
        """Read the newest rows of a table, from a recovered copy after a crash."""
        with readable(self.path) as (source, snapshot):
            if not snapshot.journal_mode:
                return None
            with naming(source), closing(connect_read_only(source)) as connection:
                connection.execute("BEGIN")
                there = read_structure(connection.execute).tables.get(table)
                if there is None or not {"id", *columns} <= there.columns.keys():
                    return None
                names = ", ".join(map(quoted, columns))
                sql = f"SELECT {names} FROM {quoted(table)} ORDER BY id DESC LIMIT ?"  # noqa: S608 - quoted
                return connection.execute(sql, (-1 if limit is None else limit,)).fetchall()

    def compact(self) -> None:
        """Rewrite every page, and empty the ``-wal``."""
        from nextcloud_mcp_server.backends.sqlite.compact import compact  # noqa: PLC0415 - see above

        compact(self.path)

    @contextmanager
    def lock(
        self, timeout: float, cancelled: Callable[[], bool] = lambda: False, *, shared: bool = False
    ) -> Iterator[LockedDatabase]:
        """Hold the file lock beside the database; create its folder if needed."""
        from nextcloud_mcp_server import forks  # noqa: PLC0415 - see above

        with forks.delayed:
            from nextcloud_mcp_server.backends.sqlite.lock import guard  # noqa: PLC0415
            from nextcloud_mcp_server.backends.sqlite.locked import LockedFile  # noqa: PLC0415

            files.make_folder(self.path)
            with guard(self.path, timeout, cancelled, shared=shared) as held:
                yield LockedFile(self.path, held, shared=shared, remote=self._remote)

    def hold(self) -> Hold | None:
        """Take a share of the in-use lock; None, with a warning, if the place cannot lock."""
        from nextcloud_mcp_server.backends.sqlite import in_use  # noqa: PLC0415 - see above

        return in_use.hold(self.path)

    def require_idle(self, *, while_running: bool = False) -> None:
        """Ask for the in-use lock, which every open store shares."""
        from nextcloud_mcp_server.backends.sqlite.in_use import require_idle  # noqa: PLC0415

        require_idle(self.path, while_running=while_running)

    def open_pool(
        self,
        journal_mode: str,
        hold: Hold | None,
        *,
        read_only: str = "",
        opened: FileId | None = None,
    ) -> Pool:
        """Return a pool of threads."""
        from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool  # noqa: PLC0415

        return SqlitePool(self.path, journal_mode, hold, read_only=read_only, opened=opened)

    @asynccontextmanager
    async def session(
        self, lock_timeout: float = DEFAULT_LOCK_TIMEOUT
    ) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction that leaves the file ready to serve."""
        from nextcloud_mcp_server.backends.sqlite.transaction import (  # noqa: PLC0415 - see above
            migration_transaction,
        )

        self.check()
        self.require_trusted()
        with self.lock(lock_timeout) as locked, naming(self.path):
            locked.require_writable()
            files.create_private(self.path)
            async with migration_transaction(self.path) as connection:
                yield connection
            locked.finish()

    def translate(self, error: BaseException) -> TokenStorageError | None:
        """Decide by SQLite's error code or the errno."""
        return named(error, self.path)
