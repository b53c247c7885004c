"""Mend what ``db doctor`` calls mendable, after a backup and under the start's lock.

Nothing here can lose a row of ours: a column gets its name back, a version table is made
anew, an empty leftover is dropped, an index is made from its table. What the SQL does, it
does in one transaction with the migration to head; damaged indexes are made first, in one
of their own, because nothing can be migrated, nor verified, while they are damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.catalog import Execute, count, quoted
from nextcloud_mcp_server.backends.sqlite.database import require_lock, require_writable, use_wal
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import HotJournalError, look
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock, guard
from nextcloud_mcp_server.crypto.keyfile import prover
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.maintenance.damaged_copy import copy_files, copy_pages
from nextcloud_mcp_server.maintenance.doctor.companions import partials_of
from nextcloud_mcp_server.maintenance.doctor.files import loose
from nextcloud_mcp_server.maintenance.doctor.subject import examined
from nextcloud_mcp_server.maintenance.indexes import make_indexes
from nextcloud_mcp_server.maintenance.repair_plan import Treatment, treatment_of
from nextcloud_mcp_server.migrate.inspect import Unlock, known_history, no_database, prove
from nextcloud_mcp_server.migrate.plan import Finding, State, plan, refusal
from nextcloud_mcp_server.migrate.startup import look_under_lock
from nextcloud_mcp_server.progress import ProgressCallback, Reporter, reporting, to_log, to_waiters
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import VERSION_TABLE
from nextcloud_mcp_server.settings import Settings

#: What those who wait for the lock are told.
_DOING: Final = "repairing it"


@dataclass(frozen=True, slots=True)
class Repaired:
    """A finished repair.

    Attributes:
        database: the database file.
        done: what was mended, in words.
        backup: the verified backup made before; None where no row was in danger.
        kept: the damaged file as it was, where that could not be backed up.
    """

    database: Path
    done: tuple[str, ...]
    backup: Path | None = None
    kept: Path | None = None


def propose(settings: Settings) -> Treatment | None:
    """What :func:`repair` would do to the tables; None where there are none. Changes nothing.

    Raises:
        TokenStorageError: as :func:`repair`.
    """
    with examined(settings) as subject:
        if subject.trouble:
            raise subject.trouble
        if not subject.path.exists():
            raise no_database(subject.path)
        unlock, opened = prover(settings), subject.opened
        if opened is None:
            return None
        treatment = treatment_of(opened.source, opened.seen, opened.history, subject.path)
        if treatment.restructures or treatment.indexes:
            require_writable(subject.path)
        adopted = treatment.finding.adopted
        prove(unlock, opened.source, opened.seen, adopted, treatment.renames)
        return treatment


def upgrade_line(treatment: Treatment | None) -> str:
    """That the repair brings the tables to head, too, in words; empty where it does not."""
    head = known_history().head
    if treatment is None or not treatment.restructures or treatment.finding.base == head:
        return ""
    return f"upgrade  with it the database is brought from {treatment.finding.base} to head, {head}"


def repair(
    settings: Settings, agreed: Treatment | None = None, *, listener: ProgressCallback | None = None
) -> Repaired:
    """Mend what can be mended of the database that ``settings`` name.

    Killed at any point, the file is as it was or mended; what is left is mended by the next
    repair. Secrets are moved with their rows and never opened, so no key is needed; where the
    settings have one, it is proven before anything is mended.

    Args:
        settings: which database.
        agreed: what a person has agreed to; None where nobody was asked.
        listener: hears how far it is (default: the log).

    Raises:
        TokenStorageError: the state's own code for a file that is not ours, newer than this
            program, really damaged, or without its grants; ``declined`` where something else
            is needed by now; what :func:`~nextcloud_mcp_server.crypto.keyfile.prover` and a
            migration raise. The file is then as it was.
    """
    path = settings.database
    files.check_path(path)
    path = files.follow(path)
    if not path.exists():
        raise no_database(path)
    unlock = prover(settings)
    with guard(path, settings.lock_timeout) as held:
        require_lock(held, path)
        require_writable(path)
        held.announce(_DOING)
        with reporting(listener or to_log(path), to_waiters(held.announce, _DOING)) as say:
            return _mend(path, held, unlock, agreed, say)


def _mend(
    path: Path, held: MigrationLock, unlock: Unlock, agreed: Treatment | None, say: Reporter
) -> Repaired:
    history = known_history()
    kept, done = _roll_back(path, held)
    seen = look(path)
    say("checking its pages")
    treatment = treatment_of(path, seen, history)
    if agreed not in {None, treatment} and (treatment.restructures or treatment.indexes):
        raise _moved(path)
    keys = prove(unlock, path, seen, treatment.finding.adopted, treatment.renames)
    done += _make_private(path)
    if treatment.indexes:
        say("keeping it as it is")
        kept = kept or copy_pages(path)
        say("making its indexes anew")
        if reason := make_indexes(path):
            raise refusal(Finding(State.CORRUPT, reason=reason), history, path)
        done += ("made its damaged indexes anew",)
    backup = None
    if treatment.restructures:
        backup = _restructure(path, history, treatment, seen, keys, say=say)
        done += _words(treatment, history)
    done += _use_journal(path, seen)
    done += _clear(path)
    return Repaired(path, done, backup, kept)


def _moved(path: Path) -> TokenStorageError:
    return TokenStorageError(
        f"{path} needs something else than was agreed to: another process has changed it "
        "meanwhile; nothing was changed.",
        code="declined",
        remedy="Stop every server, then run the command again.",
    )


def _roll_back(path: Path, held: MigrationLock) -> tuple[Path | None, tuple[str, ...]]:
    """Roll back what a crashed writer left, after the file and its journal were copied."""
    try:
        look(path)
    except HotJournalError:
        kept = copy_files(path)
        look_under_lock(path, held)
        return kept, ("rolled back what a crashed writer had left",)
    return None, ()


def _make_private(path: Path) -> tuple[str, ...]:
    done = []
    for file in loose(path):
        with naming(file):
            file.chmod(0o600)
        done.append(f"made {file.name} private (0600)")
    return tuple(done)


def _restructure(
    path: Path,
    history: History,
    treatment: Treatment,
    seen: Snapshot,
    keys: Sequence[str] | None,
    *,
    say: Reporter,
) -> Path | None:
    from nextcloud_mcp_server.migrate.run import migrate  # noqa: PLC0415 - imports Alembic

    def first(execute: Execute) -> None:
        for rename in treatment.renames:
            execute(
                f"ALTER TABLE {quoted(rename.table)} RENAME COLUMN "
                f"{quoted(rename.column)} TO {quoted(rename.wanted)}"
            )
        if treatment.forgets:
            execute(f"DROP TABLE IF EXISTS {VERSION_TABLE}")
        for table in treatment.drops:
            if not count(execute, table):
                execute(f"DROP TABLE {quoted(table)}")

    todo = plan(treatment.finding, history, path)
    return migrate(path, history, todo, seen.structure, keys=keys, first=first, say=say)


def _words(treatment: Treatment, history: History) -> tuple[str, ...]:
    """What was done to the tables."""
    finding = treatment.finding
    base = f"recorded revision {finding.base}, which its tables have"
    renamed = [f"renamed {r.table}.{r.column} back to {r.wanted}" for r in treatment.renames]
    upgraded = f"brought it to head, {history.head}"
    return (
        *renamed,
        *([base] if treatment.forgets or finding.recorded is None else []),
        *(["put the version table in order"] if not finding.tidy and finding.recorded else []),
        *(f"dropped the empty {table}" for table in treatment.drops),
        *(f"renamed the filled copy of {name} back" for name in finding.adopted),
        *(f"made {name} anew in its released shape" for name in finding.unusable),
        *([f"added {finding.gaps}"] if finding.gaps else []),
        *([upgraded] if finding.base != history.head else []),
    )


def _use_journal(path: Path, seen: Snapshot) -> tuple[str, ...]:
    if not seen.journal_mode:
        return ()
    mode = use_wal(path)
    return () if mode == seen.journal_mode else (f"switched its journal to {mode}",)


def _clear(path: Path) -> tuple[str, ...]:
    done = []
    for partial in partials_of(path):
        # What cannot be deleted is in nobody's way.
        with suppress(OSError):
            partial.unlink()
            done.append(f"deleted the half-made {partial.name}")
    return tuple(done)
