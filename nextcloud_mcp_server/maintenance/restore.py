"""Restore a backup: check it first, under the migration lock, and keep what it replaces.

After a kill at any point, the database is the one before or the one restored.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.base import LockedDatabase, Snapshot
from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite.backup_files import backup_path
from nextcloud_mcp_server.backends.sqlite.catalog import read_snapshot
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only, open_connection
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import named, naming
from nextcloud_mcp_server.backends.sqlite.in_use import in_use, require_idle
from nextcloud_mcp_server.backends.sqlite.integrity import check_pages
from nextcloud_mcp_server.backends.sqlite.size import pages_of
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.space import require_space
from nextcloud_mcp_server.maintenance import replace
from nextcloud_mcp_server.maintenance.backup_check import Backup, require_alone, signature_of
from nextcloud_mcp_server.maintenance.damaged_copy import copy_files, damaged_path, is_irregular
from nextcloud_mcp_server.maintenance.restore_preview import DAMAGED, RestorePreview
from nextcloud_mcp_server.migrate import journal
from nextcloud_mcp_server.migrate.startup import progress_to
from nextcloud_mcp_server.progress import ProgressCallback, Reporter
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT

#: Damage that makes a verified backup of the present database impossible.
_DAMAGED: Final = DAMAGED | {"backup-failed"}


@dataclass(frozen=True, slots=True)
class Restored:
    """The result of a restore.

    Attributes:
        kept: the copy of what it replaced; None if there was nothing to keep.
        seconds: the duration, including the wait for the lock.
    """

    preview: RestorePreview
    kept: Path | None
    seconds: float


class _Kept(NamedTuple):
    """The copy of what is replaced: a verified backup, or a damaged file as it is.

    If it is ``linked``, it is the same file under a second name, and must not be written to.
    """

    path: Path | None = None
    damaged: bool = False
    linked: bool = False


def restore(
    preview: RestorePreview,
    *,
    while_running: bool = False,
    keys: tuple[str, ...] | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    progress: ProgressCallback | None = None,
) -> Restored:
    """Restore what :func:`~.restore_preview.preview_restore` returned, completely or not at all.

    Args:
        while_running: allow a running server, which then uses the restored database.
        keys: fingerprints of the available keys, for the manifest of the kept copy.
        lock_timeout: in seconds.
        progress: receives updates (default: the log).

    Raises:
        TokenStorageError: ``in-use`` if a server is running; ``bad-backup`` if the backup was
            changed since; errors of the disk. The database is unchanged, unless the message
            says that it was restored.
    """
    begun = time.monotonic()
    database, backup = preview.database, preview.backup
    place = SqliteDatabase(database)
    place.require_trusted()
    doing = f"restoring it from {backup.path.name}"
    with place.lock(lock_timeout) as locked:
        locked.require_writable()
        place.require_idle(while_running=while_running)
        running = in_use(database)
        with naming(database), progress_to(place, locked, doing, progress) as report:
            seen = _inspect(locked)
            _check_unchanged(backup, database)
            _check_space(preview, seen)
            with replace.staged_copy(backup.path, database, report) as stage:
                kept = _keep(database, seen, keys, report)
                report("checking what is to be restored")
                expected = _finish_copy(stage, preview, seen, kept, begun)
                _put(stage, database, kept, report)
                report("checking the result")
                _check_result(database, expected, kept.path, running=running)
                # Last: this also removes what reading a database in WAL mode leaves.
                locked.finish()
    return Restored(preview, kept.path, time.monotonic() - begun)


def _inspect(locked: LockedDatabase) -> Snapshot:
    try:
        return locked.inspect()
    except TokenStorageError as error:
        # A damaged database can have a journal that cannot be rolled back.
        if error.code not in DAMAGED:
            raise
        return Snapshot(damage=error.code, detail=error.message)


def _check_unchanged(backup: Backup, database: Path) -> None:
    if signature_of(backup.path, database) != backup.signature:
        raise TokenStorageError(
            f"{backup.path} has been changed since it was verified; nothing was restored.",
            code="bad-backup",
            remedy="Run the command again: nextcloud-mcp-server db restore "
            f"{for_shell(backup.path)} -d {for_shell(database)}",
        )
    require_alone(backup.path, backup.manifest)


def _check_space(preview: RestorePreview, seen: Snapshot) -> None:
    """Check the space for the temporary copy, the restored database and the kept copy."""
    database, present = preview.database, 0
    if seen.exists and seen.damage and seen.damage != "not-a-database":
        present = database.stat().st_size
    elif seen.journal_mode:
        present = pages_of(database).bytes
    needed = 2 * preview.backup.size + present
    require_space(database.parent, needed, f"to restore {preview.backup.path.name}")


def _keep(database: Path, seen: Snapshot, keys: tuple[str, ...] | None, report: Reporter) -> _Kept:
    """Keep what will be replaced: as a verified backup, or as it is if it is damaged."""
    if not database.exists():
        return _Kept()
    if not seen.damage:
        if not seen.journal_mode or not seen.structure.tables:
            return _Kept()
        recorded = seen.versions[0] if seen.versions else None
        target = backup_path(database, recorded, "replaced")
        try:
            kept = backups.make_backup(database, target, kind="replaced", keys=keys, report=report)
            return _Kept(kept)
        except TokenStorageError as error:
            if error.code not in _DAMAGED:
                raise
    report("keeping it as it is")
    # It is copied as a file and may be renamed, so no process may have it open.
    require_idle(database)
    if seen.damage == "not-a-database":
        target = damaged_path(database)
        if replace.link_aside(database, target):
            return _Kept(target, damaged=True, linked=True)
    return _Kept(copy_files(database), damaged=True)


def _finish_copy(
    stage: Path, preview: RestorePreview, seen: Snapshot, kept: _Kept, begun: float
) -> backups.Summary:
    """Check the temporary copy, add the journal entry, and return its summary."""
    backup = preview.backup
    # Another program may have written to the file while it was copied.
    _check_unchanged(backup, preview.database)
    if damage := check_pages(stage):
        raise _differs(backup.path, damage)
    if seen.journal_mode and not kept.damaged:
        replace.fit_pages(stage, preview.database)
    with closing(open_connection(stage, isolation_level=None)) as connection:
        there = backups.summary(connection)
        if (there.revisions, there.rows) != (backup.revisions, backup.rows):
            raise _differs(backup.path, f"{there} was read back")
        if journal.is_kept(read_snapshot(connection.execute).structure):
            journal.record(
                connection.execute,
                "restore",
                preview.present.recorded,
                backup.revision,
                begun=begun,
                backup=kept.path,
                note=f"from {backup.path.name}",
            )
        return backups.summary(connection)


def _put(stage: Path, database: Path, kept: _Kept, report: Reporter) -> None:
    if not database.exists():
        # SQLite would apply the companions of a deleted file to the new one.
        replace.move_companions(database, damaged_path(database))
        files.publish(stage, database)
        return
    try:
        # SQLite opens no database beside a link, and would wait for a pipe.
        usable = not any(is_irregular(Path(f"{database}{s}")) for s in files.COMPANIONS)
        if not kept.linked and (usable or not kept.damaged):
            replace.copy_into(stage, database, report)
            if not kept.damaged or not check_pages(database):
                return
    except backups.BusyError as error:
        raise TokenStorageError(
            f"Another program keeps {database} locked; nothing was restored.",
            code="lock-timeout",
            remedy="Stop it (or let it finish), then try again.",
        ) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        known = named(error, database)
        if not kept.damaged or (known and known.code not in _DAMAGED):
            raise
    if kept.path is None:
        raise AssertionError("a damaged database has been kept")
    replace.swap(stage, database, kept.path)


def _check_result(
    database: Path, expected: backups.Summary, kept: Path | None, *, running: bool
) -> None:
    problem = check_pages(database)
    if not problem:
        with closing(connect_read_only(database)) as connection:
            connection.execute("BEGIN")
            there = backups.summary(connection)
        same = there == expected
        # A server may have written to it meanwhile, and may have ended since.
        running = running or in_use(database)
        if not same and not (running and there.revisions == expected.revisions):
            problem = f"{there} was read back where {expected} was to be restored"
    if problem:
        where = f"; what it replaced is {kept}" if kept else ""
        raise TokenStorageError(
            f"{database} was restored and does not read back: {problem}{where}.",
            code="io-error",
            remedy="Check the disk and the kernel's log, then restore again.",
        )


def _differs(backup: Path, detail: str) -> TokenStorageError:
    return TokenStorageError(
        f"A copy of {backup} does not read back as it: {detail}; nothing was restored.",
        code="io-error",
        remedy="Check the disk and the kernel's log, then try again.",
    )
