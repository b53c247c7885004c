"""Fix the problems that ``db doctor`` marks as fixable, after a backup and under the lock.

No row of this program can be lost: a version table is replaced, an empty leftover is
dropped, an index is rebuilt from its table. The changes of the tables and the migration to
head are one transaction. Damaged indexes are rebuilt first, in a transaction of their own,
because a damaged database can be neither migrated nor verified.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.backends.base import LockedDatabase, RecoveryNeededError, Transaction
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import inspect_file
from nextcloud_mcp_server.crypto.verification import KeyVerifier
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.permissions import OTHERS
from nextcloud_mcp_server.maintenance.damaged_copy import copy_files, copy_pages
from nextcloud_mcp_server.maintenance.doctor.context import open_context
from nextcloud_mcp_server.maintenance.doctor.files import open_to_others
from nextcloud_mcp_server.maintenance.indexes import rebuild_indexes
from nextcloud_mcp_server.maintenance.repair_plan import RepairPlan, plan_repair
from nextcloud_mcp_server.migrate.inspect import Inspection, VerifyKeys, known_history, no_database
from nextcloud_mcp_server.migrate.plan import Finding, Plan, State, plan, refusal
from nextcloud_mcp_server.migrate.startup import progress_to, warn_of_loss
from nextcloud_mcp_server.progress import ProgressCallback, Reporter
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import VERSION_TABLE
from nextcloud_mcp_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was repaired, one line each, and the verified backup, if a table was changed.

    ``kept`` is the damaged file as it was; None if it could be backed up.
    """

    database: Path
    done: tuple[str, ...]
    backup: Path | None = None
    kept: Path | None = None


def preview_repair(settings: Settings) -> RepairPlan | None:
    """Return what :func:`repair` would do to the tables; None if there are none.

    Raises:
        TokenStorageError: as :func:`repair`.
    """
    with open_context(settings) as context:
        if context.error:
            raise context.error
        place = SqliteDatabase(context.path)
        place.check()
        place.require_own_lock()
        if not place.path.exists():
            raise no_database(place)
        verify, contents = KeyVerifier(settings), context.contents
        if contents is None:
            return None
        needed = plan_repair(contents.source, contents.seen, contents.history, context.path)
        if needed.restructures or needed.indexes:
            place.require_writable()
        found = Inspection(place, contents.seen, contents.history, needed.finding, None, None)
        found.verify_keys(verify)
        return needed


def upgrade_line(needed: RepairPlan | None) -> str:
    """Return a line about the upgrade that the repair includes; empty if it includes none."""
    head = known_history().head
    if needed is None or not needed.restructures or needed.finding.base == head:
        return ""
    return f"upgrade  the repair also upgrades the database from {needed.finding.base} to {head}"


def repair(
    settings: Settings,
    confirmed: RepairPlan | None = None,
    *,
    progress: ProgressCallback | None = None,
) -> Repaired:
    """Repair the database that ``settings`` name.

    After a kill at any point, the file is unchanged or repaired, and the next repair does the
    rest. Secrets are moved with their rows and not decrypted, so no key is needed; the keys
    in the settings, if any, are verified before anything is changed. ``confirmed`` is None
    if the user was not asked; ``progress`` receives updates (default: the log).

    Raises:
        TokenStorageError: the state's own code for a file that is not of this program, is
            newer, has damaged tables, or has lost its grants; ``declined`` if something else
            is needed by now; errors of
            :func:`~nextcloud_mcp_server.crypto.verification.KeyVerifier` and of a migration. The
            file is unchanged then.
    """
    place = SqliteDatabase(settings.file)
    place.check()
    if not place.path.exists():
        raise no_database(place)
    place.require_trusted()
    verify = KeyVerifier(settings)
    with place.lock(settings.lock_timeout) as locked:
        locked.require_writable()
        with progress_to(place, locked, "repairing it", progress) as report:
            return _repair(place, locked, verify, confirmed, report)


def _repair(
    place: SqliteDatabase,
    locked: LockedDatabase,
    verify: VerifyKeys,
    confirmed: RepairPlan | None,
    report: Reporter,
) -> Repaired:
    path, history = place.path, known_history()
    kept, done = _roll_back(path, locked)
    seen = inspect_file(path)
    report("checking its pages")
    needed = plan_repair(path, seen, history)
    if confirmed not in {None, needed} and (needed.restructures or needed.indexes):
        raise TokenStorageError(
            f"{path} needs another repair than you confirmed, because another process has changed "
            "it meanwhile; nothing was changed.",
            code="declined",
            remedy="Stop every server, then run the command again.",
        )
    todo = plan(needed.finding, history, place)
    inspection = Inspection(place, seen, history, needed.finding, todo, None)
    keys = inspection.verify_keys(verify)
    done += _make_private(path)
    if needed.indexes:
        report("keeping it as it is")
        kept = kept or copy_pages(path)
        report("rebuilding its indexes")
        if reason := rebuild_indexes(path):
            raise refusal(Finding(State.CORRUPT, reason=reason), history, place)
        done += ("rebuilt its damaged indexes",)
    backup = None
    if needed.restructures:
        warn_of_loss(inspection, todo)
        backup = _restructure(inspection, locked, needed, keys, report)
        done += _restructured(needed, todo, history)
    if seen.journal_mode and (mode := locked.finish()) != seen.journal_mode:
        done += (f"switched its journal to {mode}",)
    done += _delete_abandoned(path)
    return Repaired(path, done, backup, kept)


def _roll_back(path: Path, locked: LockedDatabase) -> tuple[Path | None, tuple[str, ...]]:
    """Roll back a crashed writer's journal, after the file and the journal were copied."""
    try:
        inspect_file(path)
    except RecoveryNeededError:
        kept = copy_files(path)
        locked.inspect()
        return kept, ("rolled back the journal of a crashed writer",)
    return None, ()


def _make_private(path: Path) -> tuple[str, ...]:
    done = []
    for file in open_to_others(path):
        with naming(file):
            mode = stat.S_IMODE(file.stat().st_mode)
            mode &= 0o600 if mode & OTHERS else 0o640
            file.chmod(mode)
        done.append(f"made {file.name} private ({mode:04o})")
    return tuple(done)


def _restructure(
    inspection: Inspection,
    locked: LockedDatabase,
    needed: RepairPlan,
    keys: Sequence[str] | None,
    report: Reporter,
) -> Path | None:
    from nextcloud_mcp_server.migrate.run import migrate  # noqa: PLC0415 - imports Alembic

    def first(transaction: Transaction) -> None:
        if needed.replaces_version:
            transaction.drop(VERSION_TABLE)
        for table in needed.drops:
            if not transaction.count(table):
                transaction.drop(table)
        for table in needed.outlived:
            transaction.drop(table)

    return migrate(inspection, locked, keys=keys, first=first, report=report)


def _restructured(needed: RepairPlan, todo: Plan, history: History) -> tuple[str, ...]:
    """Return what was done to the tables, one line each."""
    finding = needed.finding
    base = f"recorded revision {finding.base}, which its tables have"
    upgraded = f"upgraded it to head, {history.head}"
    return (
        *([base] if needed.replaces_version or finding.recorded is None else []),
        *(["put the version table in order"] if not finding.tidy and finding.recorded else []),
        *(f"dropped the empty {table}" for table in needed.drops),
        *(f"dropped {table}, as its revision does" for table in needed.outlived),
        *todo.mends,
        *([upgraded] if finding.base != history.head else []),
    )


def _delete_abandoned(path: Path) -> tuple[str, ...]:
    done = []
    # A file that cannot be found or deleted does no harm.
    with suppress(OSError):
        for partial in files.abandoned_files(path, "."):
            with suppress(OSError):
                partial.unlink()
                done.append(f"deleted the incomplete {partial.name}")
    return tuple(done)
