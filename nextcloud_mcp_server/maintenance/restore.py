"""Restore a backup: verified first, under the start's lock, and what it replaces is kept.

Killed at any point, the database is the one before or the one restored.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite.catalog import observe
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.database import require_lock, use_wal
from nextcloud_mcp_server.backends.sqlite.errors import named, naming
from nextcloud_mcp_server.backends.sqlite.in_use import in_use, require_idle
from nextcloud_mcp_server.backends.sqlite.inspect import check_pages
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock, guard
from nextcloud_mcp_server.backends.sqlite.size import size_of
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.space import require_space
from nextcloud_mcp_server.maintenance import replace
from nextcloud_mcp_server.maintenance.backup_check import Backup, signature_of
from nextcloud_mcp_server.maintenance.damaged_copy import copy_files, damaged_path
from nextcloud_mcp_server.maintenance.restore_preview import DAMAGED, Offer, weigh
from nextcloud_mcp_server.migrate import journal
from nextcloud_mcp_server.migrate.startup import look_under_lock
from nextcloud_mcp_server.progress import ProgressCallback, Reporter, reporting, to_log, to_waiters
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT

#: Damage for which no verified backup of the present database can be made.
_DAMAGED: Final = DAMAGED | {"backup-failed"}

__all__ = ["Offer", "Restored", "restore", "weigh"]


@dataclass(frozen=True, slots=True)
class Restored:
    """A finished restore.

    Attributes:
        offer: what it was to do.
        kept: where what it replaced lies; None where there was nothing to keep.
        seconds: how long it took, waiting included.
    """

    offer: Offer
    kept: Path | None
    seconds: float


class _Kept(NamedTuple):
    """What is kept of what is replaced: a verified backup, or a damaged file as it is.

    Where it is ``linked``, it is the very file, and nothing may be copied into that any more.
    """

    path: Path | None = None
    damaged: bool = False
    linked: bool = False


def restore(
    offer: Offer,
    *,
    while_running: bool = False,
    keys: tuple[str, ...] | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    listener: ProgressCallback | None = None,
) -> Restored:
    """Do what :func:`weigh` offered, all of it or nothing.

    Args:
        offer: what somebody has agreed to.
        while_running: whether to restore under a running server, which then sees it.
        keys: fingerprints of the keys at hand, for the manifest of what is kept.
        lock_timeout: seconds to wait for the lock.
        listener: hears how far it is (default: the log).

    Raises:
        TokenStorageError: ``in-use`` where a server is running; ``bad-backup`` where the
            backup has been changed since; the faults of the machine. The database is as it
            was, or, where the message says so, as it was restored.
    """
    begun = time.monotonic()
    database = offer.database
    files.make_folder(database)
    doing = f"restoring it from {offer.backup.path.name}"
    with guard(database, lock_timeout) as held:
        require_lock(held, database)
        held.announce(doing)
        require_idle(database, while_running=while_running)
        waiters = to_waiters(held.announce, doing)
        with naming(database), reporting(listener or to_log(database), waiters) as say:
            seen = _look(database, held)
            _check_unchanged(offer.backup, offer.database)
            _check_space(offer, seen)
            with replace.staged_copy(offer.backup.path, database, say) as stage:
                kept = _keep(database, seen, keys, say)
                say("checking what is to be restored")
                expected = _make_ready(stage, offer, seen, kept, begun)
                _put(stage, database, kept, say)
                say("checking the result")
                _check_result(database, expected, kept.path)
                # Last: it also clears away what looking at a database in WAL mode leaves.
                use_wal(database)
    return Restored(offer, kept.path, time.monotonic() - begun)


def _look(database: Path, held: MigrationLock) -> Snapshot:
    try:
        return look_under_lock(database, held)
    except TokenStorageError as error:
        # A journal that cannot be rolled back, because what it belongs to is damaged.
        if error.code not in DAMAGED:
            raise
        return Snapshot(damage=error.code, detail=error.message)


def _check_unchanged(backup: Backup, database: Path) -> None:
    if signature_of(backup.path, database) != backup.signature:
        raise _moved(backup.path, database)


def _check_space(offer: Offer, seen: Snapshot) -> None:
    """A copy to make ready, the same again in the database, and what is there now, kept."""
    present = 0
    if seen.damage == "corrupt":
        present = offer.database.stat().st_size
    elif seen.journal_mode:
        present = size_of(offer.database)
    needed = 2 * offer.backup.size + present
    require_space(offer.database.parent, needed, f"to restore {offer.backup.path.name}")


def _keep(database: Path, seen: Snapshot, keys: tuple[str, ...] | None, say: Reporter) -> _Kept:
    """Keep what is about to be replaced: verified, or as it is where it is damaged."""
    if not database.exists():
        return _Kept()
    if not seen.damage:
        if not seen.journal_mode or not seen.structure.tables:
            return _Kept()
        recorded = seen.versions[0] if seen.versions else None
        target = backups.backup_path(database, recorded, "replaced")
        try:
            kept = backups.make_backup(database, target, kind="replaced", keys=keys, report=say)
            return _Kept(kept)
        except TokenStorageError as error:
            if error.code not in _DAMAGED:
                raise
    say("keeping it as it is")
    # It is copied as a file, and may have to be renamed: nobody may have it open.
    require_idle(database)
    if seen.damage == "not-a-database":
        target = damaged_path(database)
        if replace.link_aside(database, target):
            return _Kept(target, damaged=True, linked=True)
    return _Kept(copy_files(database), damaged=True)


def _make_ready(
    stage: Path, offer: Offer, seen: Snapshot, kept: _Kept, begun: float
) -> backups.Summary:
    """Finish the copy before it counts: its pages, its journal; what is in it now."""
    # Of the file as it was when it was copied: somebody may be writing to it.
    _check_unchanged(offer.backup, offer.database)
    if damage := check_pages(stage):
        raise _unlike(offer.backup.path, damage)
    if seen.journal_mode and not kept.damaged:
        replace.fit_pages(stage, offer.database)
    with closing(sqlite3.connect(stage, isolation_level=None)) as connection:
        there = backups.summary(connection)
        if (there.revisions, there.rows) != (offer.backup.revisions, offer.backup.rows):
            raise _unlike(offer.backup.path, f"{there} was read back")
        if journal.is_kept(observe(connection.execute).structure):
            made = journal.entry(
                "restore",
                offer.present.recorded,
                offer.backup.revision,
                begun=begun,
                backup=kept.path,
                note=f"from {offer.backup.path.name}",
            )
            journal.record(connection.execute, made)
        return backups.summary(connection)


def _put(stage: Path, database: Path, kept: _Kept, say: Reporter) -> None:
    if not database.exists():
        # What belonged to a file that is gone would be taken for the new one's.
        replace.move_companions(database, damaged_path(database))
        files.publish(stage, database)
        return
    try:
        if not kept.linked:
            replace.copy_into(stage, database, say)
            if not kept.damaged or not check_pages(database):
                return
    except backups.BusyError as error:
        raise _busy(database) from error
    except (sqlite3.Error, UnicodeDecodeError) as error:
        known = named(error, database)
        if not kept.damaged or (known and known.code not in _DAMAGED):
            raise
    if kept.path is None:
        raise AssertionError("what is damaged has been kept")
    replace.swap(stage, database, kept.path)


def _check_result(database: Path, expected: backups.Summary, kept: Path | None) -> None:
    problem = check_pages(database)
    if not problem:
        with closing(connect_read_only(database)) as connection:
            connection.execute("BEGIN")
            there = backups.summary(connection)
        same = there == expected
        # A running server may have written to it already.
        if not same and not (in_use(database) and there.revisions == expected.revisions):
            problem = f"{there} was read back where {expected} was to be restored"
    if problem:
        where = f"; what it replaced is {kept}" if kept else ""
        raise TokenStorageError(
            f"{database} was restored and does not read back: {problem}{where}.",
            code="io-error",
            remedy="Check the disk and the kernel's log, then restore again.",
        )


def _unlike(backup: Path, detail: str) -> TokenStorageError:
    return TokenStorageError(
        f"A copy of {backup} does not read back as it: {detail}; nothing was restored.",
        code="io-error",
        remedy="Check the disk and the kernel's log, then try again.",
    )


def _moved(backup: Path, database: Path) -> TokenStorageError:
    return TokenStorageError(
        f"{backup} has been changed since it was verified; nothing was restored.",
        code="bad-backup",
        remedy="Run the command again: nextcloud-mcp-server db restore "
        f"{for_shell(backup)} -d {for_shell(database)}",
    )


def _busy(database: Path) -> TokenStorageError:
    return TokenStorageError(
        f"Another program does not let go of {database}; nothing was restored.",
        code="lock-timeout",
        remedy="Stop it (or let it finish), then try again.",
    )
