"""Errors of SQLite and of the operating system as errors of this package.

``sqlite_errorcode`` decides, never the class: an IntegrityError *is* a DatabaseError, and a
full disk and a syntax error are both an OperationalError.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError, for_shell, is_no_thread, no_thread
from nextcloud_mcp_server.filesystem import errors as system
from nextcloud_mcp_server.filesystem.errors import from_texts
from nextcloud_mcp_server.filesystem.permissions import may, owner

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
    sqlite3.SQLITE_PROTOCOL: "lock-timeout",
    sqlite3.SQLITE_CONSTRAINT: "conflict",
    sqlite3.SQLITE_TOOBIG: "bad-input",
}

#: Bytes that SQLite needs beside a database in WAL mode before it reads anything.
_SHARED_MEMORY: Final = 32 * 1024

#: Files that a command has open at once: two connections with their companions, and the locks.
_FILES: Final = 10

#: PRIMARYKEY and UNIQUE: not every driver in the place of sqlite3 has a name for an extended code.
_TAKEN: Final = frozenset({sqlite3.SQLITE_CONSTRAINT | number << 8 for number in (6, 8)})

#: RAISE() in a trigger, and ON DELETE RESTRICT.
_REFUSED: Final = sqlite3.SQLITE_CONSTRAINT | 7 << 8

_TEXTS: Final = {
    **system.TEXTS,
    "corrupt": (
        "{path} is damaged: {detail}.",
        (
            "Stop every server, then: nextcloud-mcp-server db restore --newest -d {path}; without "
            'a backup try: sqlite3 {path} ".recover" | sqlite3 NEW.db'
        ),
    ),
    "not-a-database": (
        "{path} is not an SQLite database.",
        "Point TOKEN_STORAGE_DB or -d at the token database.",
    ),
    "lock-timeout": (
        "{path} is in use by another process, which did not release it in time.",
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
    "ignored": (
        "A trigger or a foreign key of {path} refused a write ({detail}); nothing was changed.",
        "See what was added to the tables: nextcloud-mcp-server db doctor -d {path}",
    ),
    "inconsistent": (
        "A table of {path} was changed so that this program cannot use it ({detail}).",
        "See what was changed: nextcloud-mcp-server db doctor -d {path}",
    ),
    "unreadable": (
        "{path} holds text that is not UTF-8.",
        "Compare the row with a backup ({path}.backup-*), and correct it.",
    ),
}


def named(error: BaseException, path: Path) -> TokenStorageError | None:  # noqa: PLR0911
    """Return the named error for an exception; None if it has another cause."""
    if isinstance(error, TokenStorageError):
        return error
    driver = driver_error(error)
    if isinstance(driver, sqlite3.Error):
        number = getattr(driver, "sqlite_errorcode", 0)
        code = _SQLITE.get(number & 0xFF)
        # A driver that reports no extended codes has only the text.
        untold = number == sqlite3.SQLITE_CONSTRAINT and str(driver).startswith("UNIQUE ")
        if code == "conflict" and number not in _TAKEN and not untold:
            code = "bad-input"
        if number == _REFUSED:
            code = "ignored"
        if code == "bad-path":
            if limit := system.reached_limit():
                return system.limited(path, limit)
            if unreadable := _unreadable(path):
                return unreadable
            # Those that were open when it failed are closed by now.
            if path.parent.exists() and (limit := system.reached_limit(_FILES)):
                return system.limited(path, limit)
        # SQLite reports an I/O error if the shared memory of a WAL does not fit on the disk, and
        # that it cannot open the database if a file beside it cannot be created.
        if code in {"io-error", "bad-path"} and _is_full(path):
            code = "disk-full"
        return from_texts(_TEXTS, code, path, _one_line(driver)) if code else None
    if isinstance(driver, UnicodeDecodeError):
        # A flipped byte in a schema page: SQLite's own message is no longer UTF-8.
        return from_texts(_TEXTS, "corrupt", path, "its schema is not readable text")
    if isinstance(driver, RuntimeError) and is_no_thread(driver):
        # aiosqlite starts one for its connection.
        return no_thread()
    return system.named(driver, path)


def at_limit(error: BaseException, path: Path) -> TokenStorageError | None:
    """Return the error for a limit of open files that kept ``path`` closed; None for another."""
    closed = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN
    if not closed and getattr(error, "errno", 0) not in {errno.EMFILE, errno.ENFILE}:
        return None
    limit = system.reached_limit(_FILES)
    return system.limited(path, limit) if limit else None


def _unreadable(path: Path) -> TokenStorageError | None:
    """Return the error for a file that this user may not read; None for any other."""
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
    """Return whether the disk has no space or, as a disk with many small files, no inode left."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    # Some file systems report no size, or no number of files.
    no_space = disk.f_blocks and disk.f_bavail * disk.f_frsize < _SHARED_MEMORY
    return bool(no_space or (disk.f_files and not disk.f_favail))


def always_named(error: Exception, path: Path) -> TokenStorageError | None:
    """Return the named error for an exception; every error of SQLite has one.

    For the running store, whose statements match the schema at head.
    """
    if (known := named(error, path)) is not None:
        return known
    driver = driver_error(error)
    if isinstance(driver, sqlite3.Error):
        # SQLite names only tables and columns, no values.
        undecoded = "decode to UTF-8" in str(driver)
        code = "unreadable" if undecoded else "inconsistent"
        return from_texts(_TEXTS, code, path, _one_line(driver))
    return None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise an error of SQLite or the operating system in the body as a named error."""
    try:
        yield
    except Exception as error:
        if (known := named(error, path)) is None or known is error:
            raise
        raise known from error


def needs_its_program(error: BaseException) -> bool:
    """Return whether SQLite lacks a collation, a function or a module of another program."""
    code = getattr(driver_error(error), "sqlite_errorcode", 0)
    return bool(code & 0xFF == sqlite3.SQLITE_ERROR)


def driver_error(error: BaseException) -> BaseException:
    """Return the exception of the driver behind one of SQLAlchemy, or the exception itself."""
    # SQLAlchemy keeps it in `orig`; its own text has the statement.
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def several_names(path: Path, number: int) -> TokenStorageError:
    """Return the error for a file that has other names: writes through one are lost for another."""
    return TokenStorageError(
        f"{path} has {number} names (hard links), each with a lock and a journal of its own: what "
        "is written through one of them is lost for the others.",
        code="bad-path",
        remedy=f"Remove the other names; to find them: find / -xdev -samefile {for_shell(path)}",
    )


def beside_link(link: Path, path: Path, suffix: str) -> TokenStorageError:
    """Return the error for a link beside which a file of a database has content."""
    stray, own = f"{link}{suffix}", f"{path}{suffix}"
    return TokenStorageError(
        f"{link.name}{suffix} ({os.lstat(stray).st_size} bytes) lies beside the link {link}, and "
        f"SQLite looks for it beside {path}: its transactions would be lost.",
        code="orphaned",
        remedy=f"Stop every server. If the database was moved without it: mv -n {for_shell(stray)} "
        f"{for_shell(own)} - or, to do without it: mv {for_shell(stray)} "
        f"{for_shell(f'{stray}.orphaned')}",
    )


def stray_journal(path: Path) -> TokenStorageError:
    """Return the error for a ``-journal`` beside a database that is open in WAL mode."""
    stray = f"{path}-journal"
    return TokenStorageError(
        f"{path.name}-journal lies beside {path}, which is open in WAL mode and has none: it "
        "belongs to another file, and no new connection can be opened beside it.",
        code="orphaned",
        remedy="Move it away, and the server continues: "
        f"mv {for_shell(stray)} {for_shell(f'{stray}.orphaned')}",
    )


def not_writable(path: Path, reason: str) -> TokenStorageError:
    """Return the error for a change that a permission prevents."""
    exists = needed(path) == "changed"
    to_write = "the file and to its folder" if exists else str(path.parent)
    return TokenStorageError(
        f"{path} has to be {needed(path)}, and {reason}.",
        code="read-only",
        remedy=f"Give this user write access to {to_write}, then try again.",
    )


def needed(path: Path) -> str:
    """Return ``changed`` for a file that exists, else ``created``."""
    # Path.exists() raises an error in a folder that is closed.
    return "changed" if os.path.exists(path) else "created"  # noqa: PTH110
