"""Verified backups through SQLite's online backup API.

A copy counts only after it was read back: made under a temporary name, 0600, synced,
checked page by page and row by row, and then renamed into place.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.backends.sqlite.catalog import counts, observe
from nextcloud_mcp_server.backends.sqlite.faults import named
from nextcloud_mcp_server.backends.sqlite.look import check_pages, connect_read_only
from nextcloud_mcp_server.errors import TokenStorageError

#: How many automatic backups of a database are kept.
KEEP: Final = 5

#: A backup's own name may be as long as this, so that its temporary ones fit as well.
_LONGEST_NAME: Final = 230

#: Pages copied at a time, between two looks at the clock.
_PAGES: Final = 1024

#: Seconds that the copy of a database may take before something must be wrong.
_DEADLINE: Final = 3600.0

_ID: Final = re.compile(r"\w{1,32}", re.ASCII)

_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"


def backup_path(database: Path, revision: str | None, *, manual: bool = False) -> Path:
    """The name of a backup made now: ``tokens.db.backup-<UTC time>-<revision>``.

    Manual ones end in ``-manual``, and are never pruned. What a damaged version table
    holds instead of an id is not written into a name.
    """
    moment = datetime.now(UTC).strftime(_STAMP)
    kind = "-manual" if manual else ""
    if revision is None or not _ID.fullmatch(revision):
        revision = "unversioned"
    return database.with_name(f"{database.name}.backup-{moment}-{revision}{kind}")


def automatic_backups(database: Path) -> list[Path]:
    """The automatic backups beside ``database``, oldest first."""
    name = re.compile(re.escape(database.name) + r"\.backup-\d{8}T\d{6}\.\d{6}Z-\w{1,32}", re.ASCII)
    return sorted(p for p in database.parent.iterdir() if name.fullmatch(p.name) and p.is_file())


def make_backup(source: Path, target: Path) -> Path:
    """Copy ``source`` to ``target`` and verify the copy.

    What is copied is what a second connection sees: a migration's transaction may be
    open already, as long as it has written nothing.

    Args:
        source: the database, live or not.
        target: where the copy is to lie; must not be there.

    Raises:
        TokenStorageError: ``bad-path`` where the target is there or cannot be made;
            ``disk-full``, ``io-error``; ``backup-failed`` where the copy is not the same.
    """
    with _private(target) as partial:
        try:
            _verify(source, partial, _copy(source, partial))
            _sync(partial)
            _publish(partial, target)
        except (sqlite3.Error, OSError) as error:
            known = named(error, target)
            if known is None or known.code in {"corrupt", "not-a-database", "lock-timeout"}:
                raise _failed(source, str(error)) from error
            raise known from error
    return target


@contextmanager
def _private(target: Path) -> Iterator[Path]:
    files.check_path(target, longest=_LONGEST_NAME)
    if target.exists():
        raise TokenStorageError(
            f"{target} is there already, and a backup overwrites nothing.",
            code="bad-path",
            remedy="Give another name, or move the file away.",
        )
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise named(error, target) or _failed(target, str(error)) from error
    try:
        yield partial
    finally:
        # A disk that fails here as well is no news; prune() clears what stays.
        for suffix in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                partial.with_name(partial.name + suffix).unlink(missing_ok=True)


def _publish(partial: Path, target: Path) -> None:
    try:
        # Not a rename: nothing that appeared there meanwhile is overwritten.
        os.link(partial, target)
    except FileExistsError as error:
        raise _failed(target, "its name was taken meanwhile") from error
    except OSError:
        # A file system without hard links.
        partial.rename(target)
    files.sync_folder(target.parent)


def _copy(source: Path, partial: Path) -> Mapping[str, object]:
    """Copy ``source`` and say what is in it, both as of one moment: it may be written to."""
    deadline = time.monotonic() + _DEADLINE

    def in_time(_status: int, _remaining: int, _total: int) -> None:
        # backup() tries for ever where the source stays locked.
        if time.monotonic() > deadline:
            raise TimeoutError(f"the copy took more than {_DEADLINE:g} seconds")

    with (
        closing(connect_read_only(source)) as reader,
        closing(sqlite3.connect(partial, isolation_level=None)) as writer,
    ):
        reader.execute("BEGIN")
        there = summary(reader)
        reader.backup(writer, pages=_PAGES, progress=in_time, sleep=0.05)
        # The copy of a WAL database is in WAL; a backup must be one file.
        writer.execute("PRAGMA journal_mode=DELETE")
    return there


def _verify(source: Path, copy: Path, there: Mapping[str, object]) -> None:
    if damage := check_pages(copy):
        raise _failed(source, damage)
    with closing(connect_read_only(copy)) as connection:
        here = summary(connection)
    if here != there:
        raise _failed(source, f"{here} was read back where {there} was to be copied")


def summary(connection: sqlite3.Connection) -> Mapping[str, object]:
    """What a backup must have in common with its source: revision and rows."""
    seen = observe(connection.execute)
    return {"revision": seen.versions, "rows": counts(connection.execute, seen.structure)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: Path, detail: str) -> TokenStorageError:
    return TokenStorageError(
        f"The backup of {path} could not be made: {detail}.",
        code="backup-failed",
        remedy="Nothing was migrated. Check the disk and its free space, then start again.",
    )


def prune(database: Path, keep: int = KEEP) -> list[Path]:
    """Delete the oldest automatic backups but the newest ``keep``; what was deleted.

    Other names, and what is not a backup of this database, are never touched. Where they
    cannot be listed or deleted, they stay: no start fails on them.
    """
    gone = []
    with suppress(OSError):
        old = automatic_backups(database)[:-keep] if keep else []
        for path in (*old, *_abandoned(database)):
            with suppress(OSError):
                path.unlink()
                gone.append(path)
    return gone


def _abandoned(database: Path) -> list[Path]:
    """What a backup that was killed left under its temporary name, more than an hour ago."""
    name = re.compile(re.escape(f".{database.name}.backup-") + r".+\.partial(-journal|-wal|-shm)?")
    youngest = time.time() - _DEADLINE
    found = []
    for path in database.parent.iterdir():
        # One that is being made in this moment may get its name in this moment.
        with suppress(FileNotFoundError):
            if name.fullmatch(path.name) and path.lstat().st_mtime < youngest:
                found.append(path)
    return found
