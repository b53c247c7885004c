"""The startup sequence: lock, inspect, plan, back up, migrate, and only then open.

:func:`prepare` is all of it on one screen. It blocks, and runs in one worker thread: the
lock is taken and released in the thread that does the work, so no cancelled coroutine can
release it while a migration is still running.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.backends.base import Database, LockedDatabase, RecoveryNeededError
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.migrate.classify import SESSIONS, lost_secrets, triggers_on
from nextcloud_mcp_server.migrate.inspect import (
    Inspection,
    VerifyKeys,
    check_before_lock,
    known_history,
)
from nextcloud_mcp_server.migrate.plan import Action, Finding, Plan, State, refusal
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT

if TYPE_CHECKING:
    from nextcloud_mcp_server.progress import ProgressCallback, Reporter

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a start found and did.

    Attributes:
        database: its path; for a server its URL, without a password.
        state: its state before.
        done: the plan that was carried out.
        backup: the backup made before; None if there was nothing to keep.
        journal_mode: SQLite's journal mode now; empty on other engines.
        seconds: the duration, waiting included.
        warning: why nothing more could be done; empty if all is well.
        read_only: why it can only be read; empty if it can be written.
    """

    database: Path | ServerUrl
    state: State
    done: Plan
    backup: Path | None = None
    journal_mode: str = ""
    seconds: float = 0.0
    warning: str = ""
    read_only: str = ""

    @property
    def action(self) -> Action:
        """What was done."""
        return self.done.action

    @property
    def before(self) -> str | None:
        """The revision that the database counted as; None for a new one."""
        return self.done.start

    @property
    def after(self) -> str:
        """The revision that it has now."""
        return self.done.target

    @property
    def stamped(self) -> bool:
        """Whether ``before`` had to be written into the version table."""
        return self.done.stamp is not None

    @property
    def steps(self) -> tuple[str, ...]:
        """The revisions that ran, oldest first."""
        return self.done.steps

    @property
    def mended(self) -> tuple[str, ...]:
        """What was repaired on the way, as text."""
        return self.done.mends


def prepare(
    database: Database,
    *,
    target: str | None = None,
    verify: VerifyKeys | None = None,
    then: Callable[[], object] = lambda: None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    cancelled: Callable[[], bool] = lambda: False,
    progress: ProgressCallback | None = None,
) -> Outcome:
    """Bring ``database`` to ``target`` (default: head) from any state, or fail unchanged.

    Args:
        database: the database; it need not exist.
        target: the revision to end at.
        verify: verifies the keys on what is stored, before anything is written, and returns
            their fingerprints.
        then: called when the database is ready, while the lock is still held; not called
            without a lock.
        lock_timeout: seconds to wait for the lock.
        cancelled: polled while waiting for the lock; True ends the wait.
        progress: receives updates, if there is something to do (default: the log).

    Raises:
        TokenStorageError: with the code of the problem. The database is as it was, but for
            a crashed writer's journal, which may have been rolled back.
    """
    begun = time.monotonic()
    database.check()
    database.require_trusted()
    # Raises before anything is created if a migration file cannot be loaded.
    known_history(database)
    for warning in database.warnings():
        logger.warning("%s", warning)
    check_before_lock(database, _require_changeable, target=target, verify=verify)
    # Many may inspect at once, and most find nothing to do; one that finds more locks alone
    # and inspects again.
    with database.lock(lock_timeout, cancelled, shared=True) as locked:
        inspection = _inspect_shared(database, locked, target)
        if inspection is not None and inspection.is_settled(locked):
            return _finish(_open(inspection, locked, verify, then), locked, begun)
    with database.lock(lock_timeout, cancelled) as locked:
        inspection = Inspection.of(database, locked.inspect(samples=True), target)
        plan = inspection.accepted()
        if inspection.is_settled(locked):
            return _finish(_open(inspection, locked, verify, then), locked, begun)
        locked.require_writable()
        with progress_to(database, locked, plan.activity, progress) as report:
            report("checking its pages")
            require_sound(inspection)
            inspection.require_usable()
            warn_of_loss(inspection, plan)
            _warn_of_triggers(inspection)
            keys = inspection.verify_keys(verify)
            locked.make_private()
            backup = _migrate(inspection, locked, keys, report) if plan.migrates else None
            mode = locked.finish()
        then()
    outcome = Outcome(database.location, inspection.finding.state, plan, backup, mode)
    return _finish(outcome, locked, begun)


def _require_changeable(inspection: Inspection) -> None:
    if inspection.accepted().migrates and inspection.exists:
        inspection.database.require_writable()


@contextmanager
def progress_to(
    database: Database, locked: LockedDatabase, activity: str, progress: ProgressCallback | None
) -> Iterator[Reporter]:
    """Send progress to the callback (default: the log) and to those who wait for the lock."""
    # A start at head has no progress to report.
    from nextcloud_mcp_server.progress import reporting, to_log, to_waiters  # noqa: PLC0415

    locked.announce(activity)
    with reporting(progress or to_log(database), to_waiters(locked.announce, activity)) as report:
        yield report


def _inspect_shared(
    database: Database, locked: LockedDatabase, target: str | None
) -> Inspection | None:
    """Inspect under the shared lock; None if only an exclusive lock can give the answer."""
    if locked.unlocked:
        return None
    try:
        snapshot = locked.inspect(samples=True)
    except RecoveryNeededError:
        return None
    # While nothing is encrypted yet a key may have to be created, by one start only.
    if not (snapshot.samples or snapshot.keys) and database.directory is not None:
        return None
    try:
        inspection = Inspection.of(database, snapshot, target)
    except TokenStorageError:
        return None
    return inspection if inspection.plan else None


def _open(
    inspection: Inspection,
    locked: LockedDatabase,
    verify: VerifyKeys | None,
    then: Callable[[], object],
) -> Outcome:
    """Verify the keys of an up-to-date database and return the outcome."""
    inspection.require_usable()
    _warn_of_triggers(inspection)
    inspection.verify_keys(verify)
    locked.make_private()
    if not locked.unlocked:
        then()
    return Outcome(
        inspection.database.location,
        inspection.finding.state,
        inspection.accepted(),
        journal_mode=inspection.snapshot.journal_mode,
        read_only=locked.read_only,
    )


def require_sound(inspection: Inspection) -> None:
    """Fail if the engine finds damage, before anything is changed.

    Raises:
        TokenStorageError: ``corrupt``.
    """
    if damage := inspection.database.check_integrity():
        finding = Finding(State.CORRUPT, reason=damage)
        raise refusal(finding, inspection.history, inspection.database)


def warn_of_loss(inspection: Inspection, plan: Plan) -> None:
    """Name the missing tables that a backup has rows of, and what is missing of secrets."""
    if plan.action is Action.CREATE and (former := inspection.database.former()):
        logger.warning("%s", former)
    for warning in inspection.database.vanished(plan.gaps.tables):
        logger.warning("%s", warning)
    lost = lost_secrets(plan.gaps) if inspection.recorded else ()
    if inspection.recorded and SESSIONS in plan.gaps.tables:
        lost = (*lost, SESSIONS)
    if empty := inspection.database.always_empty(lost) if lost else ():
        lost = tuple(name for name in lost if name not in empty)
    if lost:
        database = inspection.database
        command = f"nextcloud-mcp-server db backups {database.option}"
        logger.warning(
            "%s lacks %s, where secrets are stored, although it records revision %s: it is added, "
            "empty. If there were secrets, restore a %s",
            database,
            ", ".join(lost),
            inspection.recorded,
            "dump (pg_restore)" if database.directory is None else f"backup: {command}",
        )


def _warn_of_triggers(inspection: Inspection) -> None:
    """Name the triggers on tables of this program, which can undo what is stored."""
    structure = inspection.snapshot.structure
    if structure.triggers and (found := triggers_on(structure, inspection.history)):
        names = ", ".join(f"{trigger} on {table}" for trigger, table in sorted(found.items()))
        logger.warning(
            "%s has triggers that this program did not make (%s): they can change or delete what "
            "is stored. Drop those that you do not need: DROP TRIGGER name",
            inspection.database,
            names,
        )


def _migrate(
    inspection: Inspection, locked: LockedDatabase, keys: Sequence[str] | None, report: Reporter
) -> Path | None:
    # Imports Alembic and SQLAlchemy.
    from nextcloud_mcp_server.migrate.run import migrate  # noqa: PLC0415

    logger.info("%s: %s", inspection.database, inspection.accepted().activity)
    return migrate(inspection, locked, keys=keys, report=report)


def _finish(outcome: Outcome, locked: LockedDatabase, begun: float) -> Outcome:
    reasons = []
    if outcome.read_only:
        reasons.append(f"it is open for reading only, because {outcome.read_only}")
    if locked.unlocked:
        reasons.append(f"it could not be locked ({locked.unlocked})")
    warning = ""
    if reasons:
        warning = f"{outcome.database} is at head, so it is used: {'; '.join(reasons)}"
        logger.warning("%s", warning)
    return replace(outcome, seconds=time.monotonic() - begun, warning=warning)
