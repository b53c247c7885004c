"""Look at a database without changing it: plain sqlite3, ``mode=ro``, one query.

Opening a file to read and write, and closing it, checkpoints and deletes its ``-wal``; a
read-only connection leaves everything as it is. It cannot roll back a hot journal,
though: that is :func:`recover`, which only a start may do, under the lock.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nextcloud_mcp_server.backends.sqlite.catalog import Known, observe, quoted
from nextcloud_mcp_server.backends.sqlite.faults import named, naming
from nextcloud_mcp_server.errors import for_shell
from nextcloud_mcp_server.state import Observation
from nextcloud_mcp_server.structure import ENCRYPTED, Structure

#: Seconds to wait for another connection's lock.
BUSY_TIMEOUT: Final = 30.0

#: Encrypted values of a column that prove the keys; only where none of them opens are all read.
SAMPLED: Final = 16

#: Bytes as a URI has them (RFC 3986: unreserved characters, and the slash, stand for themselves).
_ESCAPES: Final = {
    byte: f"%{byte:02X}"
    for byte in range(256)
    if not (chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "-._~/"))
}


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open ``path`` for reading. Nothing of the file changes, not even when it is closed.

    Raises:
        sqlite3.OperationalError: it cannot be opened. What is wrong inside is met by the
            first statement.
    """
    connection = _connect(path, "mode=ro")
    if _lacks_shared_memory(connection, path):
        connection.close()
        connection = _connect(path, "mode=ro&immutable=1")
    return connection


def connect_at_rest(path: Path) -> sqlite3.Connection:
    """As :func:`connect_read_only`, for a copy that is put away: nothing appears beside it.

    Looking at a database in WAL mode leaves a ``-shm`` and an empty ``-wal``. A file that has
    neither, nor a journal, is read as what it is; whether somebody began to write to it
    meanwhile, its time tells afterwards.
    """
    if any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal")):
        return connect_read_only(path)
    return _connect(path, "mode=ro&immutable=1")


def is_still(path: Path) -> bool:
    """Whether ``path`` can be read only as a file that nobody changes meanwhile."""
    with closing(_connect(path, "mode=ro")) as connection:
        return _lacks_shared_memory(connection, path)


def _connect(path: Path, how: str) -> sqlite3.Connection:
    uri = f"{file_uri(path)}?{how}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None)
    connection.text_factory = _text
    return connection


def file_uri(path: Path) -> str:
    """The URI of ``path``, whatever characters its name has."""
    # The two slashes are an empty authority: '//a/b' is a path too, and 'a' no host.
    # urllib.parse.quote would take as long to import as a look takes.
    raw = os.fsencode(path.absolute())
    return "file://" + raw.decode("latin-1").translate(_ESCAPES)


def _lacks_shared_memory(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether all that is wrong is what a WAL database at rest does not need.

    In a folder that cannot be written, one that was closed cleanly gets no shared memory.
    """
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        lacking = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DIRECTORY}
        return getattr(error, "sqlite_errorcode", 0) in lacking and not _has_wal(path)
    return False


#: Reads a text, whatever its bytes are. A function of Python's own would cost more than the look.
_text: Final = partial(str, encoding="utf-8", errors="surrogateescape")

_NONE: Final[Known] = MappingProxyType({})


def look(path: Path, known: Known = _NONE, *, sampling: bool = False) -> Observation:
    """What lies at ``path``; nothing changes, whatever it is.

    Damage is an answer, not an error.

    Args:
        path: the database file.
        known: tables whose columns are not asked for.
        sampling: whether to read the first encrypted values along.

    Raises:
        HotJournalError: where a journal must be rolled back before anybody can read.
        TokenStorageError: where the operating system keeps the file from being read.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return Observation()
    if size == 0 and not _has_wal(path):
        return Observation()
    try:
        return _read(path, known, sampling=sampling)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return _diagnose(error, path)


def _has_wal(path: Path) -> bool:
    """Whether something of the database is in its ``-wal``, and not in the file yet."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except OSError:
        return False


def _read(path: Path, known: Known, *, sampling: bool) -> Observation:
    with closing(connect_read_only(path)) as connection:
        # One moment: a version row of after a migration denies the tables of before it.
        connection.execute("BEGIN")
        seen = _unless_cut_off(path, connection, _observe(connection, known))
        return seen._replace(samples=_samples(connection, seen)) if sampling else seen


def _observe(connection: sqlite3.Connection, known: Known) -> Observation:
    # Nearly always all text is UTF-8, which the driver reads in a third of the time.
    tolerant, connection.text_factory = connection.text_factory, str
    try:
        return observe(connection.execute, known)
    except sqlite3.OperationalError as error:
        # What SQLite says has a code; that a text is not UTF-8, the driver says.
        if hasattr(error, "sqlite_errorcode"):
            raise
    finally:
        connection.text_factory = tolerant
    return observe(connection.execute, known)


def _samples(connection: sqlite3.Connection, seen: Observation) -> tuple[bytes, ...] | None:
    """Some encrypted values; None where they cannot be read, which is told by who asks."""
    try:
        # One column is proof enough, and the first is that of the grants.
        for table, column in columns_there(seen.structure, ENCRYPTED):
            if rows := connection.execute(f"{_sealed(table, column)} LIMIT {SAMPLED}").fetchall():
                return tuple(_bytes(value) for (value,) in rows)
        return ()
    except (sqlite3.Error, UnicodeDecodeError):
        return None


def columns_there(structure: Structure, wanted: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the ``wanted`` (table, column) that a database has."""
    tables = structure.tables
    return [(t, c) for t, c in wanted if t in tables and c in tables[t].columns]


def _unless_cut_off(path: Path, connection: sqlite3.Connection, seen: Observation) -> Observation:
    # SQLite rounds the number of pages up and reads zeros for what is not there of the
    # last one, so that even quick_check is content. With a WAL, the page may be in it.
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % page_size and not _has_wal(path):
        return Observation(damage="corrupt", detail="its last page is cut off")
    return seen


class HotJournalError(Exception):
    """A crashed writer left a journal, and a reader cannot roll it back."""


def _diagnose(error: Exception, path: Path) -> Observation:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_READONLY or (code == sqlite3.SQLITE_CANTOPEN and _has_wal(path)):
        raise HotJournalError from error
    known = named(error, path)
    if known is not None and known.code in {"corrupt", "not-a-database"}:
        return Observation(damage=known.code, detail=_detail(error, path))
    if known is not None:
        raise known from error
    return Observation(damage="corrupt", detail=str(error))


def _detail(error: Exception, path: Path) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its schema is not readable text"
    text = str(error).encode("ascii", "replace").decode()
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
        return _what_it_is(path) or text
    return text


def _what_it_is(path: Path) -> str:
    # SQLite has refused the file and closed it, so reading its first bytes is safe.
    with path.open("rb") as file:
        start = file.read(100).lstrip()
    if start.upper().startswith((b"PRAGMA", b"BEGIN", b"CREATE", b"--")):
        return f"it looks like an SQL dump; load it with: sqlite3 NEW.db < {for_shell(path)}"
    if start.startswith(b"SQLite format 3"):
        return "its header is damaged"
    return "it has no SQLite header"


def recover(path: Path) -> None:
    """Let SQLite roll back what a crashed writer left. Only under the lock."""
    with naming(path), closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as connection:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()


@contextmanager
def recovered_copy(path: Path) -> Iterator[Path]:
    """A copy of a crashed database, with its journal, to look at without changing it."""
    # Needed only after a crash, and the commands that look should start at once.
    import shutil  # noqa: PLC0415
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="tokens-") as folder:
        copy = Path(folder) / path.name
        with naming(path):
            for suffix in ("", "-journal", "-wal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(path.with_name(path.name + suffix), f"{copy}{suffix}")
        recover(copy)
        yield copy


def look_without_recovery(path: Path, known: Known = _NONE) -> Observation:
    """As :func:`look`; a crashed database is looked at in a recovered copy."""
    with observed(path, known) as (_, seen):
        return seen


@contextmanager
def observed(path: Path, known: Known = _NONE) -> Iterator[tuple[Path, Observation]]:
    """What lies at ``path``, and the file to read more from: itself, or a recovered copy of it."""
    with ExitStack() as stack:
        try:
            seen = look(path, known)
        except HotJournalError:
            path = stack.enter_context(recovered_copy(path))
            seen = look(path, known)
        yield path, seen


def check_pages(path: Path) -> str:
    """What ``quick_check`` finds wrong with the pages of ``path``; empty when all is well."""
    try:
        with closing(connect_read_only(path)) as connection:
            rows = connection.execute("PRAGMA quick_check(3)").fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        known = named(error, path)
        if known is not None and known.code not in {"corrupt", "not-a-database"}:
            raise known from error
        return _detail(error, path)
    found = [" ".join(str(row[0]).split()) for row in rows if row[0] != "ok"]
    return "; ".join(found)


def ciphertexts(
    path: Path, columns: Iterable[tuple[str, str]], limit: int | None
) -> Iterator[bytes]:
    """Up to ``limit`` (None: all) encrypted values of each (table, column), one by one."""
    most = -1 if limit is None else limit
    with naming(path), closing(connect_read_only(path)) as connection:
        for table, column in columns:
            for (value,) in connection.execute(f"{_sealed(table, column)} LIMIT {most}"):
                yield _bytes(value)


def _sealed(table: str, column: str) -> str:
    name = quoted(column)
    return f"SELECT {name} FROM {quoted(table)} WHERE {name} IS NOT NULL"  # noqa: S608 - our own


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
