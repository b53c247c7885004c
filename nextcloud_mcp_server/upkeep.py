"""What a person asks for by name: look, downgrade, stamp, back up; under the start's lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.backends.sqlite.guard import guard
from nextcloud_mcp_server.backends.sqlite.look import check_pages, look_without_recovery
from nextcloud_mcp_server.backends.sqlite.session import require_lock, use_wal
from nextcloud_mcp_server.classify import classify
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.history import History
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT
from nextcloud_mcp_server.startup import known_history, look_under_lock
from nextcloud_mcp_server.state import Finding, Observation, State, refusal, unknown_target
from nextcloud_mcp_server.structure import gaps

#: Alembic's word for "no revision at all".
BASE: Final = "base"


@dataclass(frozen=True, slots=True)
class Report:
    """What a database is, as a look finds it.

    Attributes:
        database: the database file.
        exists: whether there is a file.
        finding: its state, and why.
        head: the newest revision of this program.
        pending: the revisions that an upgrade would run.
        journal_mode: SQLite's journal mode; empty without a file.
        refusal: the error that a start would raise; None where it would not.
    """

    database: Path
    exists: bool
    finding: Finding
    head: str
    pending: tuple[str, ...]
    journal_mode: str
    refusal: TokenStorageError | None

    @property
    def ready(self) -> bool:
        """Whether a start would find nothing to do to the schema."""
        finding = self.finding
        mends = finding.gaps or finding.adopted or finding.unusable or not finding.tidy
        return finding.state is State.AT_HEAD and not mends


@dataclass(frozen=True, slots=True)
class Change:
    """A finished downgrade or stamp.

    Attributes:
        database: the database file.
        before: the recorded revision before; None where there was none.
        after: the recorded revision now; None where there is none.
        steps: the revisions that were undone, newest first.
        backup: the backup made before; None where there were no rows.
    """

    database: Path
    before: str | None
    after: str | None
    steps: tuple[str, ...] = ()
    backup: Path | None = None


def examine(database: Path) -> Report:
    """Say what ``database`` is. Nothing changes: no lock, no journal rolled back, no file made.

    Raises:
        TokenStorageError: where the path cannot hold a database or cannot be read.
    """
    files.check_path(database)
    history = known_history()
    seen = look_without_recovery(database)
    finding = classify(seen, history)
    first = history.revisions.index(finding.base) + 1 if finding.base else 0
    return Report(
        database=database,
        exists=database.exists(),
        finding=finding,
        head=history.head,
        pending=() if finding.refused else history.revisions[first:],
        journal_mode=seen.journal_mode,
        refusal=refusal(finding, history, database) if finding.refused else None,
    )


def downgrade_target(report: Report, revision: str | None) -> str:
    """The id (or ``base``) that a downgrade ends at.

    Args:
        report: of the database.
        revision: an id, ``base``, ``-N`` (N steps), or None for one step.

    Raises:
        TokenStorageError: the state's code where the database has no revision to go back
            from; ``unknown-revision`` or ``bad-input`` for a revision that is not below.
    """
    if report.refusal:
        raise report.refusal
    history = known_history()
    recorded = report.finding.recorded
    if recorded is None:
        raise TokenStorageError(
            f"{report.database} has no recorded revision, so there is nothing to go back from.",
            code="bad-input",
            remedy="Bring it to head first: nextcloud-mcp-server db upgrade",
        )
    ladder = (BASE, *history.revisions[: history.revisions.index(recorded) + 1])
    wanted = "-1" if revision is None else revision
    if wanted.startswith("-") and wanted[1:].isdigit():
        steps = int(wanted)
        wanted = ladder[steps - 1] if -steps < len(ladder) else BASE
    if wanted != BASE and wanted not in history:
        raise unknown_target(wanted, history)
    if wanted not in ladder[:-1]:
        raise TokenStorageError(
            f"{report.database} is at revision {recorded}, which is not above {wanted}.",
            code="bad-input",
            remedy=f"To go up, use: nextcloud-mcp-server db upgrade --revision {wanted}",
        )
    return wanted


def downgrade(
    database: Path, revision: str | None = None, *, lock_timeout: float = DEFAULT_LOCK_TIMEOUT
) -> Change:
    """Go back to ``revision`` (default: one step), in one transaction, after a backup.

    Raises:
        TokenStorageError: as :func:`downgrade_target`, and as a start does.
    """
    with _locked(database, lock_timeout, f"downgrading it to {revision or 'the one before'}") as it:
        target = downgrade_target(it.report, revision)
        recorded = it.report.finding.recorded
        if recorded is None:
            raise AssertionError("a target was found, so there is a recorded revision")
        from nextcloud_mcp_server import transition  # noqa: PLC0415 - imports Alembic

        made = transition.downgrade(
            database, it.history, it.report.finding, target, it.seen.structure
        )
        use_wal(database)
    revisions = it.history.revisions
    first = 0 if target == BASE else revisions.index(target) + 1
    steps = revisions[first : revisions.index(recorded) + 1]
    after = None if target == BASE else target
    return Change(database, recorded, after, tuple(reversed(steps)), made)


def stamp(database: Path, revision: str, *, lock_timeout: float = DEFAULT_LOCK_TIMEOUT) -> Change:
    """Record ``revision`` (or ``base``: none) without running anything, after a backup.

    Also the way out of several disagreeing version rows.

    Raises:
        TokenStorageError: ``inconsistent`` where the tables deny ``revision``,
            ``unknown-revision``, and what a look may find.
    """
    with _locked(database, lock_timeout, f"stamping it with {revision}") as it:
        if not it.report.exists or it.report.finding.state is State.NEW:
            raise TokenStorageError(
                f"There is no table in {database} to record a revision of.",
                code="bad-input",
                remedy="Create it: nextcloud-mcp-server db upgrade",
            )
        _check_stamp(it, revision)
        from nextcloud_mcp_server import transition  # noqa: PLC0415 - imports Alembic

        made = transition.stamp(
            database, it.history, it.report.finding, revision, it.seen.structure
        )
        use_wal(database)
    after = None if revision == BASE else revision
    return Change(database, it.report.finding.recorded, after, backup=made)


def _check_stamp(it: _Locked, revision: str) -> None:
    stampable = {State.UNKNOWN_REVISION, State.AMBIGUOUS_VERSION}
    if it.report.refusal and it.report.finding.state not in stampable:
        raise it.report.refusal
    if revision == BASE:
        return
    if revision not in it.history:
        raise unknown_target(revision, it.history)
    # What a later revision drops is nothing that an upgrade from here would miss.
    passing = it.history.structure(revision).without(it.history.dropped_before(it.history.head))
    lacks = gaps(it.seen.structure, passing)
    dropped = it.history.dropped_before(revision) & it.seen.structure.tables.keys()
    if not lacks and not dropped:
        return
    detail = f"lacks {lacks}" if lacks else f"still has {', '.join(sorted(dropped))}"
    raise TokenStorageError(
        f"{it.report.database} {detail}, so it is not at revision {revision}.",
        code="inconsistent",
        remedy="Stamp the revision that it has, or let the program find it: "
        "nextcloud-mcp-server db current",
    )


def back_up(database: Path, target: Path | None = None) -> Path:
    """Make a verified backup of a database, live or not, and return its path.

    Args:
        database: the database file.
        target: where the backup is to lie (default: beside the database, under a name
            with time and revision that is never pruned).

    Raises:
        TokenStorageError: ``bad-path`` where there is no database or the target is taken;
            the state's code for a damaged or foreign file; ``backup-failed``.
    """
    report = examine(database)
    damaged = {State.CORRUPT, State.NOT_A_DATABASE, State.FOREIGN}
    if report.refusal and report.finding.state in damaged:
        raise report.refusal
    if not report.exists or not report.journal_mode:
        raise TokenStorageError(
            f"There is no database at {database} to back up.",
            code="bad-path",
            remedy="Give the path of the token database with -d.",
        )
    revision = report.finding.recorded
    return backups.make_backup(
        database, target or backups.backup_path(database, revision, manual=True)
    )


@dataclass(frozen=True, slots=True)
class _Locked:
    """A database that was looked at under the lock, which is still held."""

    report: Report
    seen: Observation
    history: History


@contextmanager
def _locked(database: Path, lock_timeout: float, doing: str) -> Iterator[_Locked]:
    files.check_path(database)
    history = known_history()
    if not database.exists():
        raise TokenStorageError(
            f"There is no database at {database}.",
            code="bad-path",
            remedy="Give the path of the token database with -d, or create it: "
            "nextcloud-mcp-server db upgrade",
        )
    with guard(database, lock_timeout) as held:
        require_lock(held, database)
        held.announce(doing)
        seen = look_under_lock(database, held)
        report = examine(database)
        if not report.refusal and (damage := check_pages(database)):
            raise refusal(Finding(State.CORRUPT, reason=damage), history, database)
        yield _Locked(report, seen, history)
