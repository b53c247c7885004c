"""What SQLite and the operating system report, in this program's words.

The decision is made by ``sqlite_errorcode``, never by class: an IntegrityError *is* a
DatabaseError, and a full disk arrives as an OperationalError like a syntax error does.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.owners import may, owner
from nextcloud_mcp_server.errors import TokenStorageError, for_shell

_SYSTEM: Final = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
    errno.ENAMETOOLONG: "bad-path",
    errno.ENOTDIR: "bad-path",
    errno.ELOOP: "bad-path",
    errno.EISDIR: "bad-path",
    errno.ENOENT: "bad-path",
}

_SQLITE: Final = {
    sqlite3.SQLITE_FULL: "disk-full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_CANTOPEN: "bad-path",
    sqlite3.SQLITE_IOERR: "io-error",
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "not-a-database",
    sqlite3.SQLITE_BUSY: "lock-timeout",
    sqlite3.SQLITE_LOCKED: "lock-timeout",
    sqlite3.SQLITE_CONSTRAINT: "conflict",
    sqlite3.SQLITE_TOOBIG: "bad-input",
}

#: Bytes that SQLite needs beside a database in WAL mode before it reads anything.
_SHARED_MEMORY: Final = 32 * 1024

_TAKEN: Final = frozenset({sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY})

_WORDS: Final = {
    "disk-full": (
        "The disk that holds {path} is full.",
        "Free space there, then try again; nothing was lost.",
    ),
    "read-only": (
        "{path} cannot be written ({detail}).",
        "Give this user write access to the file and to its folder, then try again.",
    ),
    "bad-path": (
        "{path} cannot be opened ({detail}).",
        "Check that the folder is there and that this user may enter it.",
    ),
    "io-error": (
        "The operating system reported an error on {path} ({detail}).",
        "Check the disk and the kernel's log, then try again; what was committed is kept.",
    ),
    "corrupt": (
        "{path} is damaged: {detail}.",
        "Stop every server, then: nextcloud-mcp-server db restore --newest -d {path}",
    ),
    "not-a-database": (
        "{path} is not an SQLite database.",
        "Point TOKEN_STORAGE_DB or -d at the token database.",
    ),
    "lock-timeout": (
        "{path} is in use by another process, which did not let go in time.",
        "Stop the other process (or let it finish), then try again.",
    ),
    "conflict": (
        "A row with the same unique value is in {path} already.",
        "Use a value that is not taken, or delete the other row first.",
    ),
    "bad-input": (
        "{path} does not take a value ({detail}).",
        "Store another value, or remove the constraint or trigger that an operator added.",
    ),
    "inconsistent": (
        "{path} changed while it was in use ({detail}).",
        "Restart the server: a start brings the database to head, or says what is wrong.",
    ),
    "unreadable": (
        "{path} holds text that is not UTF-8.",
        "Compare the row with a backup ({path}.backup-*), and mend it there.",
    ),
}


def named(error: BaseException, path: Path) -> TokenStorageError | None:
    """The named error for what was raised, or None where it is not the database's doing."""
    if isinstance(error, TokenStorageError):
        return error
    driver = _driver_error(error)
    if isinstance(driver, sqlite3.Error):
        code = _code(getattr(driver, "sqlite_errorcode", 0))
        # That there is no room for the shared memory of a WAL is an I/O error to SQLite.
        if code == "io-error" and _is_full(path):
            code = "disk-full"
        if code == "bad-path" and (unreadable := _unreadable(path)):
            return unreadable
        return _error(code, path, _one_line(driver)) if code else None
    if isinstance(driver, UnicodeDecodeError):
        # A flipped byte in a schema page: SQLite's own message is no UTF-8 any more.
        return _error("corrupt", path, "its schema is not readable text")
    if isinstance(driver, OSError):
        code = _SYSTEM.get(driver.errno or 0, "io-error")
        return _error(code, path, driver.strerror or type(driver).__name__)
    return None


def _code(number: int) -> str | None:
    if number & 0xFF == sqlite3.SQLITE_CONSTRAINT and number not in _TAKEN:
        return "bad-input"
    return _SQLITE.get(number & 0xFF)


def _unreadable(path: Path) -> TokenStorageError | None:
    """The error for a file that this user may not read; None for every other."""
    try:
        whose = owner(path)
    except OSError:
        return None
    if may(path, os.R_OK):
        return None
    return TokenStorageError(
        f"{path} cannot be read by this user ({whose}).",
        code="bad-path",
        remedy="Run this as its owner, or give this user access to the file and to its folder.",
    )


def _is_full(path: Path) -> bool:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _SHARED_MEMORY


def always_named(error: Exception, path: Path) -> TokenStorageError | None:
    """As :func:`named`, and every other error of SQLite gets a name too.

    For the running store, where the statements are known to fit the schema at head.
    """
    if (known := named(error, path)) is not None:
        return known
    driver = _driver_error(error)
    if isinstance(driver, sqlite3.Error):
        # No value is quoted: SQLite names tables and columns only.
        undecoded = "decode to UTF-8" in str(driver)
        return _error("unreadable" if undecoded else "inconsistent", path, _one_line(driver))
    return None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what SQLite or the operating system raises inside into a named error."""
    try:
        yield
    except Exception as error:
        if (known := named(error, path)) is None or known is error:
            raise
        raise known from error


def _driver_error(error: BaseException) -> BaseException:
    # SQLAlchemy keeps the driver's exception in `orig`; its own text has the statement.
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _error(code: str, path: Path, detail: str) -> TokenStorageError:
    message, remedy = _WORDS[code]
    typed = remedy.format(path=for_shell(path))
    return TokenStorageError(message.format(path=path, detail=detail), code=code, remedy=typed)
