"""The identity of the files that a store has open, and the size of the ``-wal``.

A file that is deleted, moved or replaced stays open: SQLite commits into it without an error,
and nobody reads it again. A ``-wal`` and a ``-shm`` belong to the database that is there
when they are opened, not to their name. So device and inode of all three are compared.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.backends.sqlite.header import header_of, mark_of, stated_size
from nextcloud_mcp_server.errors import TokenStorageError, for_shell

if TYPE_CHECKING:
    import sqlite3

#: Device and inode of a file.
FileId = tuple[int, int]

#: What belongs to an open database in WAL mode, and lasts as long as it is open.
_COMPANIONS: Final = ("-wal", "-shm")


def file_id(path: Path | str) -> FileId | None:
    """Return device and inode; None if there is no such file."""
    try:
        # Not through a link: SQLite names what belongs to a database by its own path.
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def wal_size(path: Path) -> int:
    """Return the bytes of the ``-wal`` of a database; 0 if there is none."""
    try:
        return os.stat(f"{path}-wal").st_size  # noqa: PTH116 - each commit comes here
    except OSError:
        return 0


class OpenFiles:
    """A database and its companions as they were when they were opened.

    Args:
        path: the database.
        opened: its device and inode; None to read them now.
    """

    def __init__(self, path: Path, opened: FileId | None = None) -> None:
        self._path = path
        self._name = str(path)
        #: Bytes of the database at the last commit.
        self._size = 0
        self._opened = {self._name: opened or file_id(path)}
        #: When the database was written to as its header was read last, and the mark in that.
        self._seen_at = 0
        self._mark: int | None = None
        #: When another database was written over it; 0 if none was.
        self._other_at = 0

    def add_companions(self) -> None:
        """Remember the companions too, once a connection has opened them."""
        names = (f"{self._path}{suffix}" for suffix in _COMPANIONS)
        there = {name: found for name in names if (found := file_id(name))}
        # A new dict: another thread may be comparing the files.
        self._opened = {**self._opened, **there}

    def forget_companions(self) -> None:
        """Forget the companions, because the last connection may remove them from now on."""
        self._opened = {self._name: self._opened[self._name]}

    def replaced(self) -> str:
        """Return which file is missing or another one; empty if all are as they were."""
        # Each commit comes here twice.
        for name, opened in self._opened.items():
            try:
                there = os.lstat(name)
            except (FileNotFoundError, NotADirectoryError):
                return f"{os.path.basename(name)} is missing"  # noqa: PTH119
            if (there.st_dev, there.st_ino) != opened:
                return f"{os.path.basename(name)} is another file now"  # noqa: PTH119
            # An open database always has pages, and a -wal may be empty.
            if name == self._name:
                if not there.st_size:
                    return f"{self._path.name} is empty now"
                if there.st_mtime_ns == self._other_at:
                    return f"{self._path.name} holds another database now"
        return ""

    @property
    def has_own_pages(self) -> bool:
        """Whether the open database still has its pages, so that they can be saved."""
        return not self._other_at

    def problem(self) -> str:
        """Return :meth:`replaced`, or why that cannot be determined."""
        try:
            return self.replaced()
        except OSError as error:
            return f"{error.filename} cannot be examined ({error.strerror})"

    def require(self, connection: sqlite3.Connection | None = None) -> None:
        """Fail if a file was moved, deleted or replaced, or if the database was cut off.

        Args:
            connection: in a write transaction, to tell a database that was cut off from one that
                became smaller, as after a VACUUM.

        Raises:
            TokenStorageError: ``replaced``.
        """
        what = self.replaced()
        if not what and connection is not None:
            what = self._cut_off(connection)
        if what:
            raise replaced(self._path, what)

    def _cut_off(self, connection: sqlite3.Connection) -> str:
        """Return whether pages of the database are gone, as text; only the writer asks."""
        status = os.lstat(self._name)
        size = status.st_size
        # Not PRAGMA page_count: after a VACUUM the pages of later commits may be in the -wal alone.
        if size < self._size and size < stated_size(header_of(self._path)):
            return f"{self._path.name} was cut off"
        self._size = size
        if status.st_mtime_ns != self._seen_at and f"{self._name}-wal" in self._opened:
            return self._overwritten(connection, status.st_mtime_ns)
        return ""

    def _overwritten(self, connection: sqlite3.Connection, written_at: int) -> str:
        """Return whether another database was written over this one, in WAL mode, as text.

        Then only a checkpoint writes to the file, and the mark in its header is the one that
        SQLite reads, or an older one.
        """
        header = header_of(self._path)
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
        mark = mark_of(header)
        if not header or (self._mark is not None and mark not in {version, self._mark}):
            self._other_at = written_at
            return f"{self._path.name} holds another database now"
        self._seen_at, self._mark, self._other_at = written_at, mark, 0
        return ""


def replaced(path: Path, what: str) -> TokenStorageError:
    """Return the error for an open database that is not the one at its place any more."""
    return TokenStorageError(
        f"{path} is not the database that this server opened: {what}; nothing more is read or "
        "stored.",
        code="replaced",
        remedy="If that was on purpose, restart the server. If not, stop it: it saves what it has "
        f"open as a backup. Then: nextcloud-mcp-server db restore --newest -d {for_shell(path)}",
    )
