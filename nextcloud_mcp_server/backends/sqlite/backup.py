"""Verified backups through SQLite's online backup API.

A backup is written under a temporary name with mode 0600, checked page by page and row by
row, synced, and then renamed. Its manifest follows.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.backends.sqlite.backup_files import (
    CLOCK_SKEW,
    Kind,
    backup_path,
    beside,
    discard,
    find_backups,
    orphaned,
)
from nextcloud_mcp_server.backends.sqlite.catalog import counts, read_snapshot
from nextcloud_mcp_server.backends.sqlite.connect import (
    BUSY_TIMEOUT,
    connect_read_only,
    open_connection,
)
from nextcloud_mcp_server.backends.sqlite.errors import named, naming
from nextcloud_mcp_server.backends.sqlite.integrity import check_pages
from nextcloud_mcp_server.backends.sqlite.manifest import (
    LARGEST,
    Manifest,
    as_texts,
    manifest_path,
    read_manifest,
    sha256_of,
    write_manifest,
)
from nextcloud_mcp_server.backends.sqlite.size import pages_of
from nextcloud_mcp_server.errors import TokenStorageError, legible
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.space import require_space
from nextcloud_mcp_server.progress import Reporter, silent

logger = logging.getLogger(__name__)

#: Bytes in the name of a backup. Its temporary names are longer.
_LONGEST_NAME: Final = 230

#: Pages copied between two progress updates. It is one transaction whatever the number.
_PAGES: Final = 1024

#: Seconds without a copied page after which a copy fails.
_DEADLINE: Final = 2 * BUSY_TIMEOUT


class BusyError(TimeoutError):
    """Another program keeps the database locked."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup must have in common with its source.

    Attributes:
        revisions: the rows of the version table; None without the table.
        rows: the number of rows of every table.
    """

    revisions: tuple[str | None, ...] | None
    rows: dict[str, int]


def make_backup(
    source: Path,
    target: Path,
    *,
    kind: Kind = "automatic",
    action: str = "",
    keys: Sequence[str] | None = None,
    report: Reporter = silent,
) -> Path:
    """Copy ``source`` to ``target``, verify the copy, and write its manifest.

    A second connection reads the source: a migration's transaction may be open, as long as
    it has written nothing.

    Args:
        source: the database, in use or not.
        target: the path of the backup; it must not exist.
        kind: for the manifest.
        action: for the manifest: the change that it is made before.
        keys: fingerprints of the available keys, for the manifest; None if there are none.
        report: receives progress updates.

    Raises:
        TokenStorageError: ``bad-path`` if the target exists or cannot be created; ``orphaned``
            if SQLite would apply a ``-wal`` or ``-journal`` to it;
            ``disk-full``, ``io-error``; ``backup-failed`` if the copy differs.
    """
    _check_free(target)
    require_space(target.parent, pages_of(source).bytes, f"to back up {source}")
    try:
        with files.private_file(target, source) as partial:
            there = copy_with_summary(source, partial, report)
            report("verifying the copy")
            _verify(source, partial, there)
            report("syncing the copy")
            _publish(partial, target, _manifest(source, partial, there, kind, keys, action=action))
    except (sqlite3.Error, OSError) as error:
        known = named(error, target)
        if known is None or known.code in {"corrupt", "not-a-database", "lock-timeout"}:
            raise _failed(source, str(error)) from error
        raise known from error
    return target


def save_open(reader: sqlite3.Connection, database: Path) -> Path:
    """Back up what ``reader`` still has open of a database that was moved or replaced.

    Raises:
        TokenStorageError: ``backup-failed`` if the copy differs.
        sqlite3.Error, OSError: the copy cannot be made.
    """
    reader.execute("BEGIN")
    there = summary(reader)
    recorded = there.revisions[0] if there.revisions else None
    target = backup_path(database, recorded, "rescued")
    with files.private_file(target, database.parent) as partial:
        copy_to_file(reader, partial, "copying it")
        _verify(database, partial, there)
        _publish(partial, target, _manifest(database, partial, there, "rescued", None))
    return target


def _manifest(
    source: Path,
    partial: Path,
    there: Summary,
    kind: Kind,
    keys: Sequence[str] | None,
    *,
    action: str = "",
) -> Manifest:
    return Manifest(
        sha256=sha256_of(partial),
        bytes=partial.stat().st_size,
        database=legible(source.name),
        revisions=as_texts(there.revisions),
        rows=there.rows,
        kind=kind,
        keys=None if keys is None else tuple(keys),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        program_version=__version__,
        sequence=_next_number(source),
        action=action,
    )


def _next_number(database: Path) -> int:
    """Return a number above that of every backup, and warn if the clock is behind them."""
    try:
        found = find_backups(database)
    except OSError:
        return 1
    now = datetime.now(UTC)
    if found and (newest := max(found, key=lambda one: one.made_at)).made_at > now + CLOCK_SKEW:
        logger.warning(
            "The clock shows %s, and the backup %s has a later time: correct the clock, or "
            "delete that backup if the clock was wrong when it was made",
            f"{now:%Y-%m-%d %H:%M:%SZ}",
            newest.path,
        )
    return min(LARGEST, 1 + max((one.sequence for one in found), default=0))


def _check_free(target: Path) -> None:
    """Refuse to overwrite a file; the manifest of a deleted backup is removed."""
    try:
        files.check_path(target, longest=_LONGEST_NAME)
    except TokenStorageError as error:
        # The remedy of check_path names a setting of the database.
        raise TokenStorageError(
            error.message,
            code=error.code,
            remedy="Give the backup another path, of a file that is not there yet.",
        ) from None
    if target.exists():
        raise _taken(target)
    if found := beside(target):
        raise orphaned(f"No backup can be made at {target}", found)
    manifest = manifest_path(target)
    try:
        left = read_manifest(target)
    except (OSError, ValueError) as error:
        raise _taken(manifest) from error
    if left is not None:
        # Before the new backup has its name: the old manifest would describe it.
        with naming(manifest):
            manifest.unlink(missing_ok=True)


def _taken(path: Path) -> TokenStorageError:
    return TokenStorageError(
        f"{path} is there already, and a backup overwrites nothing.",
        code="bad-path",
        remedy="Give another name, or move the file away.",
    )


def _publish(partial: Path, target: Path, manifest: Manifest) -> None:
    try:
        files.publish(partial, target)
        write_manifest(target, manifest)
    except FileExistsError as error:
        raise _failed(target, "its name was taken meanwhile") from error
    except OSError:
        # The caller gets an error, so there must be no backup.
        with suppress(OSError):
            discard(target)
        raise


def copy_with_summary(source: Path, target: Path, report: Reporter = silent) -> Summary:
    """Copy ``source`` and return its summary, both of one moment: it can be written to.

    Raises:
        BusyError: ``source`` stays locked.
        sqlite3.Error: the copy cannot be made.
    """
    with closing(connect_read_only(source)) as reader:
        reader.execute("BEGIN")
        there = summary(reader)
        copy_to_file(reader, target, "copying it", report)
    return there


def copy_to_file(
    reader: sqlite3.Connection, target: Path, phase: str, report: Reporter = silent
) -> None:
    """Copy a database into the empty file ``target``, as :func:`copy_database`."""
    with closing(open_connection(target, isolation_level=None)) as writer:
        copy_database(reader, writer, phase, report)
        # The copy of a WAL database is in WAL mode, and needs a second file.
        writer.execute("PRAGMA journal_mode=DELETE")


def copy_database(
    reader: sqlite3.Connection, writer: sqlite3.Connection, phase: str, report: Reporter = silent
) -> None:
    """Copy all pages with SQLite's online backup API, in one transaction of ``writer``.

    Raises:
        BusyError: no page was copied for a minute.
        sqlite3.Error: the copy cannot be made.
    """
    copied_at, left = time.monotonic(), -1

    def step(_status: int, remaining: int, total: int) -> None:
        nonlocal copied_at, left
        report(phase, total - remaining, total, "pages")
        if remaining != left:
            copied_at, left = time.monotonic(), remaining
        elif time.monotonic() > copied_at + _DEADLINE:
            # backup() retries forever if one of the two stays locked.
            raise BusyError(errno.ETIMEDOUT, f"it was locked for {_DEADLINE:g} seconds")

    reader.backup(writer, pages=_PAGES, progress=step, sleep=0.05)


def _verify(source: Path, copy: Path, there: Summary) -> None:
    if damage := check_pages(copy):
        raise _failed(source, damage)
    with closing(connect_read_only(copy)) as connection:
        here = summary(connection)
    if here != there:
        raise _failed(source, f"{here} was read back where {there} was to be copied")


def summary(connection: sqlite3.Connection) -> Summary:
    """Return the revisions and the row counts of a database."""
    seen = read_snapshot(connection.execute)
    return Summary(seen.versions, counts(connection.execute, seen.structure))


def _failed(path: Path, detail: str) -> TokenStorageError:
    return TokenStorageError(
        f"The backup of {path} could not be made: {detail}.",
        code="backup-failed",
        remedy="Check the disk and its free space, then try again; nothing was changed.",
    )
