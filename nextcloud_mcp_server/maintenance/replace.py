"""Put one database in the place of another, so that a kill leaves the old or the new.

An open database is replaced from within, by SQLite's backup API, in one transaction: every
process that has it open sees the new one. A rename under an open connection would let that
connection go on writing into a file that nobody finds any more.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.connect import (
    BUSY_TIMEOUT,
    connect_at_rest,
    connect_read_only,
)
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.progress import Reporter, silent

#: What SQLite keeps beside a database.
COMPANIONS: Final = ("-wal", "-shm", "-journal")

#: Pages copied between two words of how far it is. Whatever the number, it is one transaction.
_PAGES: Final = 1024

#: Seconds after which a database that stays locked is given up.
_DEADLINE: Final = 2 * BUSY_TIMEOUT


class BusyError(OSError):
    """Another program does not let go of the database."""


@contextmanager
def staged(backup: Path, database: Path, say: Reporter = silent) -> Iterator[Path]:
    """A private copy of ``backup`` beside ``database``, to make ready before it counts.

    ``say`` is told how far the copy is.

    Raises:
        sqlite3.Error: the copy cannot be made.
        OSError: the same.
    """
    # The name is one that a later start clears, should this process be killed.
    name = f".{database.name}.backup-restoring.{secrets.token_hex(3)}.partial"
    stage = database.with_name(name)
    os.close(os.open(stage, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(connect_at_rest(backup)) as reader, closing(_connect(stage)) as writer:
            reader.backup(writer, pages=_PAGES, progress=partial(_tell, say, "copying the backup"))
            # One file, whatever mode the copied one was in.
            writer.execute("PRAGMA journal_mode=DELETE")
        yield stage
    finally:
        for suffix in ("", *COMPANIONS):
            with suppress(OSError):
                _beside(stage, suffix).unlink(missing_ok=True)


def _tell(say: Reporter, phase: str, _status: int, remaining: int, total: int) -> None:
    say(phase, total - remaining, total, "pages")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None)
    try:
        for pragma in ("synchronous=EXTRA", "secure_delete=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        # What is damaged may answer the first pragma with an error.
        connection.close()
        raise
    return connection


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def fit_pages(stage: Path, database: Path) -> None:
    """Give ``stage`` the page size of ``database``: in WAL mode SQLite copies no other."""
    with closing(connect_read_only(database)) as there:
        (wanted,) = there.execute("PRAGMA page_size").fetchone()
        (pages,) = there.execute("PRAGMA page_count").fetchone()
    with closing(_connect(stage)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        if pages and size != wanted:
            connection.execute(f"PRAGMA page_size={wanted}")
            connection.execute("VACUUM")


def copy_into(stage: Path, database: Path, say: Reporter = silent) -> None:
    """Replace what is in ``database`` by what is in ``stage``, in one transaction.

    ``say`` is told how far it is.

    Raises:
        BusyError: another connection stays in the way.
        sqlite3.Error: ``database`` is none, or the disk does not allow it.
    """
    moved, left = time.monotonic(), -1

    def in_time(status: int, remaining: int, total: int) -> None:
        nonlocal moved, left
        if remaining != left:
            moved, left = time.monotonic(), remaining
        elif time.monotonic() > moved + _DEADLINE:
            # backup() tries for ever where the target stays locked.
            raise BusyError
        _tell(say, "putting it in place", status, remaining, total)

    with closing(connect_read_only(stage)) as reader, closing(_connect(database)) as writer:
        reader.backup(writer, pages=_PAGES, progress=in_time, sleep=0.05)
        # What was replaced is not to lie in the WAL; where a reader is in the way, it stays
        # until the last connection closes.
        with suppress(sqlite3.Error):
            writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def create(stage: Path, database: Path) -> None:
    """Give ``stage`` the name of ``database``, where there is no such file.

    Raises:
        OSError: it cannot, or a file has appeared there meanwhile.
    """
    files.sync(stage)
    try:
        os.link(stage, database)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        stage.rename(database)
    files.sync_folder(database.parent)


def link_aside(database: Path, aside: Path) -> bool:
    """Give a file that is about to be swapped a second name; False where that cannot be.

    It costs neither time nor space. What is copied into ``database`` afterwards would change
    both: :func:`swap` is the one way from here.
    """
    try:
        os.link(database, aside)
    except OSError:
        return False
    files.sync_folder(aside.parent)
    return True


def swap(stage: Path, database: Path, aside: Path) -> None:
    """Give ``stage`` the name and the mode of ``database``, which no SQLite can open.

    Only where nobody has it open. There is never a moment without a file of that name.

    Args:
        stage: the new database.
        database: the old one, which is lost.
        aside: where the old one is kept; its companions go with it.
    """
    old = database.stat()
    stage.chmod(stat.S_IMODE(old.st_mode))
    with suppress(OSError):
        os.chown(stage, old.st_uid, old.st_gid)
    files.sync(stage)
    move_companions(database, aside)
    stage.replace(database)
    files.sync_folder(database.parent)
    # What was linked had the mode of the database until now.
    with suppress(OSError):
        aside.chmod(0o600)


def move_companions(database: Path, aside: Path) -> None:
    """Move away what belongs to an old file of this name: beside a new one it is poison."""
    for suffix in COMPANIONS:
        with suppress(FileNotFoundError):
            _beside(database, suffix).replace(_beside(aside, suffix))
    files.sync_folder(database.parent)
