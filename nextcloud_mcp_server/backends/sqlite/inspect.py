"""Inspect a database without changing it: plain sqlite3, ``mode=ro``, one query.

A connection that may write checkpoints and deletes the ``-wal`` when it is closed; a
read-only one changes nothing. But it cannot roll back a hot journal: :func:`recover` does,
under the lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nextcloud_mcp_server.backends.base import (
    RecoveryNeededError,
    Snapshot,
)
from nextcloud_mcp_server.backends.sqlite.catalog import Known, read_snapshot
from nextcloud_mcp_server.backends.sqlite.connect import (
    BUSY_TIMEOUT,
    connect_read_only,
    connect_to_write,
    has_content,
)
from nextcloud_mcp_server.backends.sqlite.errors import named, naming
from nextcloud_mcp_server.backends.sqlite.secrets import first_and_newest, read_keys
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import mounts
from nextcloud_mcp_server.filesystem.files import create_private
from nextcloud_mcp_server.schema.structure import ENCRYPTED, columns_there
from nextcloud_mcp_server.settings import declared_file_system

#: The journal mode that a start leaves a local file in.
WAL: Final = "wal"


def is_remote(path: Path) -> bool:
    """Return whether WAL is not used for ``path``: its file system is not known to be local."""
    declared = declared_file_system()
    return declared == "remote" if declared else mounts.is_not_local(path)


_NONE: Final[Known] = MappingProxyType({})


def inspect_file(path: Path, known: Known = _NONE, *, sampling: bool = False) -> Snapshot:
    """Read a snapshot of ``path``; damage is part of it, not an error.

    Args:
        path: the database file.
        known: tables whose columns need not be read.
        sampling: whether to read some encrypted values too.

    Raises:
        RecoveryNeededError: a journal must be rolled back before anyone can read.
        TokenStorageError: the operating system does not let the file be read.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return _misplaced(path, None) or Snapshot(exists=False)
    if refused := _misplaced(path, size):
        return refused
    if size == 0 and not has_content(path, "-wal"):
        return Snapshot()
    try:
        return _read(path, known, sampling=sampling)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return _diagnose(error, path)


def _misplaced(path: Path, size: int | None) -> Snapshot | None:
    """Return the snapshot of a file beside a companion of another; None if there is none."""
    if not any(has_content(path, suffix) for suffix in ("-wal", "-journal", "-shm")):
        return None
    # Most inspections find no companion with content.
    from nextcloud_mcp_server.backends.sqlite.companions import find_misplaced  # noqa: PLC0415

    try:
        found = find_misplaced(path, size)
    except FileNotFoundError:
        # Its writer has finished and deleted it.
        return None
    except (OSError, sqlite3.Error) as error:
        raise named(error, path) or error from error
    if found is None:
        return None
    return Snapshot(
        damage="orphaned",
        detail=found.reason,
        companion=found.path,
        exists=size is not None,
    )


def _read(path: Path, known: Known, *, sampling: bool) -> Snapshot:
    with closing(connect_read_only(path)) as connection:
        # One moment, so that the version row and the tables match.
        connection.execute("BEGIN")
        seen = _observe(connection, known)
        # SQLite rounds the number of pages up and reads zeros for the missing part of the last
        # one, so that quick_check passes. With a WAL, the page may be in it.
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        if path.stat().st_size % page_size and not has_content(path, "-wal"):
            return Snapshot(damage="corrupt", detail="its last page is cut off")
        if not sampling:
            return seen
        return seen._replace(
            samples=_samples(connection, seen), keys=read_keys(connection, seen.structure)
        )


def _observe(connection: sqlite3.Connection, known: Known) -> Snapshot:
    # The driver reads UTF-8, the usual case, in a third of the time.
    tolerant, connection.text_factory = connection.text_factory, str
    try:
        return read_snapshot(connection.execute, known)
    except sqlite3.OperationalError as error:
        # An error of SQLite has a code; the driver's "not UTF-8" has none.
        if hasattr(error, "sqlite_errorcode"):
            raise
    finally:
        connection.text_factory = tolerant
    return read_snapshot(connection.execute, known)


def _samples(connection: sqlite3.Connection, seen: Snapshot) -> tuple[bytes, ...] | None:
    """Return the first and the newest encrypted value; None if they cannot be read.

    The newest one is that of each column. If a key is missing, they differ as a rule.
    """
    try:
        there = columns_there(seen.structure, ENCRYPTED)
        return first_and_newest(connection, there) if there else ()
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def _diagnose(error: Exception, path: Path) -> Snapshot:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_READONLY or (
        code == sqlite3.SQLITE_CANTOPEN and has_content(path, "-wal")
    ):
        raise RecoveryNeededError from error
    known = named(error, path)
    if known is not None and known.code in {"corrupt", "not-a-database"}:
        return Snapshot(damage=known.code, detail=_detail(error, path))
    if known is not None:
        raise known from error
    # No version of SQLite has written the format that a damaged header names.
    if code != sqlite3.SQLITE_ERROR or "unsupported file format" in str(error):
        return Snapshot(damage="corrupt", detail=_detail(error, path))
    detail = f"SQLite {sqlite3.sqlite_version} cannot read its tables here ({error})"
    return Snapshot(damage="inconsistent", detail=detail)


def _detail(error: Exception, path: Path) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its schema is not readable text"
    text = str(error).encode("ascii", "replace").decode()
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
        return _what_it_is(path) or text
    return text


def _what_it_is(path: Path) -> str:
    # SQLite has closed the file, so opening it here drops no lock.
    with path.open("rb") as file:
        start = file.read(100).lstrip()
    if start.upper().startswith((b"PRAGMA", b"BEGIN", b"CREATE", b"--")):
        return f"it looks like an SQL dump; load it with: sqlite3 NEW.db < {for_shell(path)}"
    if start.startswith(b"SQLite format 3"):
        return "its header is damaged"
    return "it has no SQLite header"


def recover(path: Path) -> None:
    """Let SQLite roll back the journal of a crashed writer. Only under the lock."""
    with naming(path), closing(connect_to_write(path, BUSY_TIMEOUT)) as connection:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()


@contextmanager
def recovered_copy(path: Path) -> Iterator[Path]:
    """Copy a crashed database with its journal, and recover the copy."""
    # Needed only after a crash.
    import shutil  # noqa: PLC0415

    from nextcloud_mcp_server.filesystem import temporary  # noqa: PLC0415

    doing = f"to read {path}, which a crashed writer left, in a copy"
    with temporary.temporary_folder(doing) as folder:
        copy = folder / path.name
        try:
            with naming(path):
                for suffix in ("", "-journal", "-wal"):
                    source, made = Path(f"{path}{suffix}"), Path(f"{copy}{suffix}")
                    if source.exists():
                        create_private(made)
                        with suppress(FileNotFoundError):
                            shutil.copyfile(source, made)
            recover(copy)
        except TokenStorageError as error:
            if error.code == "disk-full":
                raise temporary.full(folder.parent, doing) from error
            raise
        yield copy


@contextmanager
def readable(
    path: Path, known: Known = _NONE, *, sampling: bool = False
) -> Iterator[tuple[Path, Snapshot]]:
    """Yield the file to read, which may be a recovered copy, and its snapshot."""
    with ExitStack() as stack:
        try:
            seen = inspect_file(path, known, sampling=sampling)
        except RecoveryNeededError:
            path = stack.enter_context(recovered_copy(path))
            seen = inspect_file(path, known, sampling=sampling)
        yield path, seen
