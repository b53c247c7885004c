"""Rewrite a database file, so that it holds the values of its rows and nothing else.

What was deleted without ``secure_delete`` stays in free pages. Also with it, SQLite leaves copies
of values in the unused part of a page when it moves rows to another one. ``VACUUM`` writes every
page again, in one transaction: a kill leaves the file as it was.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.connect import BUSY_TIMEOUT, connect_to_write
from nextcloud_mcp_server.backends.sqlite.errors import named, naming
from nextcloud_mcp_server.backends.sqlite.wal import checkpoint
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.space import require_space

#: Seconds of one turn of a wait: while SQLite waits, Python handles no signal.
_TURN: Final = 1.0

#: Seconds to wait for programs that read, until the ``-wal`` can be emptied; and between tries.
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.1

#: How many steps of SQLite lie between two moments at which Python handles a signal.
_STEPS: Final = 100_000

#: Bytes beside each page in a ``-wal`` or a journal, at most.
_FRAME: Final = 24


def compact(path: Path) -> None:
    """Rewrite ``path`` and empty its ``-wal``. Writers wait meanwhile; in WAL mode readers go on.

    Raises:
        TokenStorageError: ``disk-full`` if the copy and the log do not fit; ``lock-timeout`` if
            another program writes, or reads what is replaced, for too long; or another error of
            SQLite. Then the file may hold old values still.
        KeyboardInterrupt: Ctrl-C; the same holds.
    """
    with naming(path), closing(connect_to_write(path, _TURN)) as connection:
        for pragma in ("synchronous=EXTRA", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        [(mode,)] = connection.execute("PRAGMA journal_mode").fetchall()
        in_wal = mode == "wal"
        require_space(path.parent, _needs(connection, in_wal=in_wal), f"to rewrite {path.name}")
        _require_no_index_of_others(connection, path)
        with _temporary_files_in(connection, path.parent):
            _vacuum(connection, path)
        if in_wal:
            _empty_wal(path)


def _needs(connection: sqlite3.Connection, *, in_wal: bool) -> int:
    """Return the bytes of the copy that SQLite makes, and of the log of the transaction."""
    pages, free, size = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (2 * (pages - free) + (0 if in_wal else free)) * (size + _FRAME)


@contextmanager
def _temporary_files_in(connection: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """Let SQLite make its copy in ``folder``, with mode 0600 and without a name; else in memory.

    In a container the other folders may be small, or read-only. SQLite has this setting once for
    the whole process.
    """
    [before] = connection.execute("PRAGMA temp_store_directory").fetchall() or [("",)]
    # Some builds have no such setting, and a name that is not UTF-8 cannot be given.
    with suppress(sqlite3.Error, UnicodeEncodeError):
        connection.execute(f"PRAGMA temp_store_directory={_text(folder)}")
    if connection.execute("PRAGMA temp_store_directory").fetchall() != [(str(folder),)]:
        connection.execute("PRAGMA temp_store=MEMORY")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            connection.execute(f"PRAGMA temp_store_directory={_text(before[0])}")


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _require_no_index_of_others(connection: sqlite3.Connection, path: Path) -> None:
    """Fail if a full-text index of somebody else names rows by numbers that VACUUM may change."""
    query = "SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL TABLE%content%=%'"
    if found := connection.execute(query).fetchall():
        raise TokenStorageError(
            f"{path} has a full-text index of another table ({found[0][0]}), which would name "
            "other rows.",
            code="conflict",
            remedy="Drop it, and make it again afterwards.",
        )


def _vacuum(connection: sqlite3.Connection, path: Path) -> None:
    # The driver turns Ctrl-C in a callback of SQLite into an error.
    connection.set_progress_handler(_let_python_run, _STEPS)
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            connection.execute("VACUUM")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_INTERRUPT:
                raise KeyboardInterrupt from None
            if not _is_busy(error):
                raise _refused(path, error) from None
            if time.monotonic() >= deadline:
                raise
        else:
            return


def _refused(path: Path, error: sqlite3.Error) -> Exception:
    """Return the error of SQLite, or a named one: an index may need what is not loaded here."""
    if named(error, path) is not None:
        return error
    return TokenStorageError(
        f"SQLite cannot rewrite {path} ({error}).",
        code="conflict",
        remedy="Drop the index or the table that it names, or load what that needs.",
    )


def _let_python_run() -> int:
    return 0


def _empty_wal(path: Path) -> None:
    """Write the new pages over the old ones, as soon as nobody reads those."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            if checkpoint(path, _TURN, empty=True):
                return
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
        if time.monotonic() >= deadline:
            raise TokenStorageError(
                f"Another program keeps writing to {path}, or reading what it held before.",
                code="lock-timeout",
                remedy="Let it finish, then try again.",
            )
        time.sleep(_PAUSE)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
