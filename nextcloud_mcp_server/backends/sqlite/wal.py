"""The write-ahead log: checkpoints that lose no commit on any version of SQLite.

The "WAL-reset bug" of SQLite 3.7.0 to 3.51.2 (https://www.sqlite.org/wal.html#walresetbug): a
checkpoint first reads the length of the WAL, then how much of it is copied already. If a
commit begins the WAL again between the two, its pages count as copied and are lost. So no
connection of this program makes automatic checkpoints, and :func:`checkpoint` keeps every
commit of every process away. A checkpoint at the close of the last connection is safe as it
is: SQLite makes it under an exclusive lock on the database.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite.connect import connect_to_write
from nextcloud_mcp_server.backends.sqlite.open_files import OpenFiles, replaced, wal_size
from nextcloud_mcp_server.errors import TokenStorageError

#: Bytes of a ``-wal`` after which the writer makes a checkpoint: a thousand pages.
LIMIT: Final = 4 * 1024 * 1024

#: Bytes by which a ``-wal`` grows until the next try, if a reader prevents a full checkpoint.
_STEP: Final = LIMIT // 4

#: Bytes to which SQLite cuts a ``-wal`` that it begins again, after a long reader. Extending a
#: file costs a commit more than overwriting it.
KEPT: Final = LIMIT

#: Seconds without a write after which the ``-wal`` is emptied; the most, if a reader prevents it.
IDLE: Final = 3.0
_LONGEST_IDLE: Final = 300.0

#: Seconds to wait for another writer.
_PATIENCE: Final = 1.0

#: Bytes of the header, and with the header of the first frame.
WAL_HEADER: Final = 32
_HEADERS: Final = WAL_HEADER + 24

#: The least bytes of one that has a commit, with the smallest page.
_ONE_FRAME: Final = _HEADERS + 512

#: How often an invalid header is read again, and the seconds in between.
_LOOKS: Final = 5
_MOMENT: Final = 0.002

#: How it begins, by the order of the bytes in its checksums.
WAL_MAGIC: Final = (bytes.fromhex("377f0682"), bytes.fromhex("377f0683"))


def has_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """Return whether checkpoints of this SQLite can lose a commit."""
    if version[:2] in {(3, 44), (3, 50)}:
        return version < ((3, 44, 6) if version[1] == 44 else (3, 50, 7))  # noqa: PLR2004
    return (3, 7, 0) <= version < (3, 51, 3)


def library() -> str:
    """Describe the SQLite in use."""
    text = f"SQLite {sqlite3.sqlite_version}"
    if not has_reset_bug():
        return text
    return f"{text}: no write is lost, because this program avoids its WAL-reset bug"


def checkpoint(path: Path, timeout: float, *, empty: bool = False) -> bool:
    """Copy the ``-wal`` of an open database into it; return whether that is done.

    A commit can begin the WAL again only while it holds the write lock. So one connection
    holds that lock while a second one makes the checkpoint: ``PASSIVE``, because every other
    kind takes the lock itself, and becomes a ``PASSIVE`` one without it if the lock is busy.

    Args:
        path: the database, in WAL mode.
        timeout: seconds to wait for the commits of others.
        empty: whether to cut the ``-wal`` to one page afterwards, so that it holds no old row.
            A commit that changes nothing begins it again, and ``journal_size_limit`` cuts it.

    Raises:
        sqlite3.OperationalError: another connection keeps the write lock.
    """
    with (
        closing(connect_to_write(path, timeout)) as holder,
        closing(connect_to_write(path, timeout)) as copier,
    ):
        # Opens the WAL; a connection that has not read anything makes no checkpoint.
        [(version,)] = copier.execute("PRAGMA user_version").fetchall()
        holder.execute("BEGIN IMMEDIATE")
        busy, pages, copied = copier.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        holder.execute("ROLLBACK")
        if busy or pages != copied:
            return False
        if empty:
            holder.execute("PRAGMA journal_size_limit=0")
            # Writes its page even if the number is the same.
            holder.execute(f"PRAGMA user_version={int(version)}")
            [(page_size,)] = holder.execute("PRAGMA page_size").fetchall()
            return wal_size(path) <= _HEADERS + int(page_size)
    return True


def is_wal_header(data: bytes) -> bool:
    """Return whether ``data`` is the header of a ``-wal``, with its checksum."""
    if len(data) != WAL_HEADER or data[:4] not in WAL_MAGIC:
        return False
    order = ">" if data[3] & 1 else "<"
    return checksum((0, 0), data[:24], order) == struct.unpack(">II", data[24:])


def checksum(sums: tuple[int, int], data: bytes, order: str) -> tuple[int, int]:
    """Return the checksum of a ``-wal`` after more data; ``order`` is that of its words."""
    one, two = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


class WalFile:
    """The ``-wal`` as the last commit of this process left it.

    SQLite notices neither a ``-wal`` that another program has emptied or cut off, nor one that
    belongs to another database: it commits behind the hole, and nobody reads that after a crash.

    Args:
        path: the database, in WAL mode.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._seen = _Seen(0, b"")
        #: The salt at the begin of the transaction.
        self._begun = b""
        #: Whether the next commit writes page 1, by which its -wal is told from another one.
        self.marks = True

    def begin(self, connection: sqlite3.Connection) -> None:
        """Check the ``-wal`` in a write transaction, before its first write.

        Raises:
            TokenStorageError: ``replaced`` if it has lost its beginning or its end.
        """
        seen = self._look()
        # Without a commit so far, it may be what a power cut left, which SQLite ignores.
        lost = self._seen.valid and seen.size and not seen.valid
        if lost or (seen.salt == self._seen.salt and seen.size < self._seen.size):
            raise self._cut()
        self._begun = seen.salt
        if self.marks:
            [(version,)] = connection.execute("PRAGMA user_version").fetchall()
            # 31 bits, because the number is signed.
            mark = int(version) or int.from_bytes(os.urandom(4), "big") >> 1 or 1
            # Writes the page even if the number is the same.
            connection.execute(f"PRAGMA user_version={mark}")

    def committed(self) -> None:
        """Check that a commit lies in a ``-wal`` that is complete.

        Raises:
            TokenStorageError: ``replaced`` if it does not.
        """
        seen = self._look()
        for _ in range(_LOOKS):
            # It can be empty after a commit that has changed nothing.
            if seen.valid or not seen.size:
                break
            # Another process may be writing the header, now that the lock is free.
            time.sleep(_MOMENT)
            seen = self._look()
        else:
            raise self._cut()
        if seen.salt != self._begun:
            # It was begun again, and the commit that does so may still have to cut it, but not
            # below its first frame.
            seen = seen._replace(size=min(seen.size, _ONE_FRAME))
        self._seen, self.marks = seen, False

    def close(self) -> None:
        """Close the file. Nothing was locked with it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _cut(self) -> TokenStorageError:
        return replaced(self._path, f"{self._path.name}-wal was emptied or cut off")

    def _look(self) -> _Seen:
        """Read the size and the header; what was seen before if the file cannot be opened."""
        # A connection that is the last one deletes the file, also of a store that is open.
        status = os.fstat(self._descriptor) if self._descriptor >= 0 else None
        if status is None or not status.st_nlink:
            self.close()
            try:
                self._descriptor = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return _Seen(0, b"")
            except OSError:
                # At the limit of open files a commit is still possible.
                return self._seen
            status = os.fstat(self._descriptor)
        header = os.pread(self._descriptor, WAL_HEADER, 0)
        known = header == self._seen.header
        return _Seen(status.st_size, header, self._seen.valid if known else is_wal_header(header))


class _Seen(NamedTuple):
    """The size of a ``-wal``, its header, and whether that is as SQLite writes it."""

    size: int
    header: bytes
    valid: bool = False

    @property
    def salt(self) -> bytes:
        """What changes when SQLite begins the ``-wal`` again."""
        return self.header[16:24]


class Checkpoints:
    """Makes the checkpoints of an open store, in the thread that writes.

    Args:
        path: the database, in WAL mode.
        files: its open files.
        lock: held while connections are open for a checkpoint.
        log: told that the next commit begins a new ``-wal``.
    """

    def __init__(self, path: Path, files: OpenFiles, lock: threading.Lock, log: WalFile) -> None:
        self._path = path
        self._log = log
        self._files = files
        self._lock = lock
        self._tried_at = 0
        self._pause = IDLE
        self._pending = False

    def begin(self) -> float | None:
        """Return when to look at the ``-wal`` that a start has found; None if there is nothing.

        One that was not closed may hold what was deleted by then.
        """
        self._pending = wal_size(self._path) > 0
        return IDLE if self._pending else None

    def __call__(self, idle: bool) -> float | None:
        """Make a checkpoint if the ``-wal`` is long or nobody writes; return when to look again.

        Args:
            idle: whether nobody has written for as long as this returned before.
        """
        size = wal_size(self._path)
        if idle:
            self._pending = self._pending and size > 0 and not self._make(empty=True)
            self._pause = min(2 * self._pause, _LONGEST_IDLE)
            return self._pause if self._pending else None
        if size <= LIMIT:
            self._tried_at = 0
        elif size >= self._tried_at + _STEP:
            self._tried_at = size
            self._make(empty=False)
        self._pending, self._pause = True, IDLE
        return IDLE

    def _make(self, *, empty: bool) -> bool:
        try:
            with self._lock:
                self._files.require()
                done = checkpoint(self._path, _PATIENCE, empty=empty)
                self._log.marks |= done
                return done
        except (sqlite3.Error, OSError, TokenStorageError):
            # The next one does what this one could not.
            return False
