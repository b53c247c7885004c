"""Open a database with plain sqlite3: for reading, so that nothing changes, or for writing.

Every connection is made with the class ``sqlite3.Connection``. Tools that trace databases replace
``sqlite3.connect``, or that class too, and return proxies, which functions in C refuse
(``backup()``), so a proxy is unwrapped.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from nextcloud_mcp_server.errors import TokenStorageError, printable

T = TypeVar("T")

#: Seconds to wait for another connection's lock.
BUSY_TIMEOUT: Final = 30.0

#: Seconds of one turn; the wait is reported after the first.
_TURN: Final = 1.0

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})

#: The oldest SQLite that works: the first with ``ALTER TABLE ... DROP COLUMN``.
MINIMUM: Final = (3, 35, 0)

#: What stands for itself in a URI (RFC 3986), and the slash.
_UNRESERVED: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/"
)


def open_connection(database: str | Path, **options: Any) -> sqlite3.Connection:
    """Open a connection of the driver's own class."""
    return unwrapped(sqlite3.Connection(database, **options))


def unwrapped(made: T) -> T:
    """Return what a proxy is around, as wrapt makes them; any other object as it is."""
    while (inner := getattr(made, "__wrapped__", None)) is not None:
        made = inner
    return made


def require_library() -> None:
    """Check that the SQLite in use is new enough.

    Raises:
        TokenStorageError: ``old-sqlite``.
    """
    if sqlite3.sqlite_version_info < MINIMUM:
        needed = ".".join(map(str, MINIMUM))
        raise TokenStorageError(
            f"This Python uses SQLite {sqlite3.sqlite_version}, and {needed} or newer is needed; "
            "nothing was changed.",
            code="old-sqlite",
            remedy="Use the container image, or a Python with a newer SQLite, which this prints: "
            "python3 -c 'import sqlite3; print(sqlite3.sqlite_version)'",
        )


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open ``path`` for reading. Nothing of the file changes, not even when it is closed.

    A wait for a program that has locked the file exclusively is logged.

    Raises:
        sqlite3.OperationalError: it cannot be opened. Damage shows at the first statement.
    """
    deadline, told = time.monotonic() + BUSY_TIMEOUT, False
    while True:
        # While SQLite waits, Python handles no signal: Ctrl-C ends the wait between two turns.
        connection = _connect(path, "mode=ro", min(_TURN, BUSY_TIMEOUT))
        try:
            lacking = _lacks_shared_memory(connection, path)
            break
        except sqlite3.OperationalError as error:
            connection.close()
            # A driver in the place of sqlite3 may report no code.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_BUSY)
            if code & 0xFF not in _BUSY or time.monotonic() >= deadline:
                raise
            if not told:
                told = True
                _report_wait(path)
    connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT * 1000)}")
    if lacking:
        connection.close()
        connection = _connect(path, "mode=ro&immutable=1")
    return connection


def connect_at_rest(path: Path) -> sqlite3.Connection:
    """Open a file that nobody has open, such as a backup, without creating files beside it.

    Reading a database in WAL mode leaves a ``-shm`` and an empty ``-wal``. A file with neither
    a ``-wal`` nor a journal is read as immutable; its modification time shows afterwards
    whether somebody wrote to it.
    """
    if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal")):
        return connect_read_only(path)
    return _connect(path, "mode=ro&immutable=1")


def connect_to_write(path: Path, timeout: float) -> sqlite3.Connection:
    """Open an existing database for writing, without automatic checkpoints.

    See :mod:`nextcloud_mcp_server.backends.sqlite.wal`. Damage shows at the first statement
    that reads the file.

    Args:
        path: the database.
        timeout: seconds to wait for another connection's lock.
    """
    connection = _connect(path, "mode=rw", timeout)
    connection.text_factory = str
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def connect_to_pages(path: Path) -> sqlite3.Connection:
    """Open ``path`` without its companions, as it is on the disk."""
    return _connect(path, "mode=ro&immutable=1")


def is_still(path: Path) -> bool:
    """Return whether ``path`` can only be read as immutable."""
    with closing(_connect(path, "mode=ro")) as connection:
        return _lacks_shared_memory(connection, path)


def _report_wait(path: Path) -> None:
    # Importing it takes longer than `db current` runs.
    import logging  # noqa: PLC0415

    logging.getLogger(__name__).warning(
        "%s is locked by another program; waiting for it, at most %.0f seconds. Stop that program "
        "to go on at once.",
        printable(str(path)),
        BUSY_TIMEOUT,
    )


def _connect(path: Path, how: str, timeout: float | None = None) -> sqlite3.Connection:
    timeout = BUSY_TIMEOUT if timeout is None else timeout
    uri = f"{file_uri(path)}?{how}"
    connection = open_connection(uri, uri=True, timeout=timeout, isolation_level=None)
    connection.text_factory = _text
    return connection


def file_uri(path: Path) -> str:
    """Return the URI of ``path``, with every special byte escaped."""
    # urllib.parse.quote would take as long to import as an inspection takes.
    escaped = os.fsencode(path.absolute()).decode("latin-1")
    # Most paths need no escape, and looking at each character is a part of a start that counts.
    if not _UNRESERVED.issuperset(escaped):
        escaped = "".join(c if c in _UNRESERVED else f"%{ord(c):02X}" for c in escaped)
    # The two slashes are an empty authority: '//a/b' is a path too, and 'a' no host.
    return f"file://{escaped}"


def _lacks_shared_memory(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether only the shared memory of a WAL database is missing.

    A cleanly closed one in a folder that cannot be written gets none, and does not need it.
    """
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_BUSY:
            # The next statement would wait as long again.
            connection.close()
            raise
        # The second is SQLITE_READONLY_DIRECTORY, which pysqlite3 does not name.
        lacking = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY | 6 << 8}
        return code in lacking and not has_content(path, "-wal")
    return False


#: Reads text of any bytes. A Python function would cost more than the inspection.
_text: Final = partial(str, encoding="utf-8", errors="surrogateescape")


def has_content(path: Path, suffix: str) -> bool:
    """Return whether the companion with this suffix holds content, or is no regular file."""
    try:
        # SQLite follows no link here.
        found = os.lstat(f"{path}{suffix}")
    except OSError:
        return False
    # The shared memory is no content.
    full = found.st_size > 0 and suffix != "-shm"
    return full or not stat.S_ISREG(found.st_mode)
