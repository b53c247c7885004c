"""Replace one database with another, so that a kill leaves the old or the new one.

An open database is replaced from within, by SQLite's backup API in one transaction: every
process that has it open sees the new content. After a rename, an open connection would
write into a file that no longer has a name.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite.backup import copy_database, copy_to_file
from nextcloud_mcp_server.backends.sqlite.connect import (
    BUSY_TIMEOUT,
    connect_at_rest,
    connect_read_only,
    connect_to_write,
)
from nextcloud_mcp_server.backends.sqlite.open_files import wal_size
from nextcloud_mcp_server.backends.sqlite.wal import checkpoint
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.progress import Reporter, silent


@contextmanager
def staged_copy(backup: Path, database: Path, report: Reporter = silent) -> Iterator[Path]:
    """Copy ``backup`` to a private temporary file beside ``database``; remove it at the end.

    Raises:
        sqlite3.Error, OSError: the copy cannot be made.
    """
    # A later start removes a file of this name if this process is killed.
    with files.private_file(database, database, ".backup-restoring") as stage:
        with closing(connect_at_rest(backup)) as reader:
            copy_to_file(reader, stage, "copying the backup", report)
        yield stage


def _connect(path: Path) -> sqlite3.Connection:
    connection = connect_to_write(path, BUSY_TIMEOUT)
    try:
        for pragma in ("synchronous=EXTRA", "secure_delete=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        # The first pragma fails if the database is damaged.
        connection.close()
        raise
    return connection


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


def copy_into(stage: Path, database: Path, report: Reporter = silent) -> None:
    """Replace the content of ``database`` with that of ``stage``, in one transaction.

    Raises:
        BusyError: another connection keeps a lock.
        sqlite3.Error: ``database`` is not a database, or the disk does not allow it.
    """
    with closing(connect_read_only(stage)) as reader, closing(_connect(database)) as writer:
        copy_database(reader, writer, "putting it in place", report)
    # Old content must not stay in the WAL. If a reader blocks this, it stays there until a
    # server is idle or the last connection closes.
    if wal_size(database):
        with suppress(sqlite3.Error):
            checkpoint(database, BUSY_TIMEOUT, empty=True)


def link_aside(database: Path, aside: Path) -> bool:
    """Give a file that :func:`swap` will replace a second name; False if that fails.

    It costs neither time nor space. From here on, a copy into ``database`` would change
    both, so only :func:`swap` may follow.
    """
    try:
        os.link(database, aside)
    except OSError:
        return False
    files.sync_folder(aside.parent)
    return True


def swap(stage: Path, database: Path, aside: Path) -> None:
    """Give ``stage`` the name and the mode of ``database``, which SQLite cannot open.

    Call it only if no process has the database open. A file of that name exists all the time.
    The companions of the old one are moved to ``aside``, which is its copy.
    """
    old = database.stat()
    stage.chmod(stat.S_IMODE(old.st_mode))
    with suppress(OSError):
        os.chown(stage, old.st_uid, old.st_gid)
    files.sync(stage)
    move_companions(database, aside)
    stage.replace(database)
    files.sync_folder(database.parent)
    # A hard link had the mode of the database until now.
    with suppress(OSError):
        aside.chmod(0o600)


def move_companions(database: Path, aside: Path) -> None:
    """Move the companions of the old file away: SQLite would apply them to the new one."""
    for suffix in files.COMPANIONS:
        with suppress(FileNotFoundError):
            Path(f"{database}{suffix}").replace(f"{aside}{suffix}")
    files.sync_folder(database.parent)
