"""What a person asks for by name: downgrade, stamp, back up; under the start's lock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.database import require_lock, require_writable, use_wal
from nextcloud_mcp_server.backends.sqlite.in_use import require_idle
from nextcloud_mcp_server.backends.sqlite.inspect import (
    check_pages,
    observed,
)
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.migrate.inspect import (
    Report,
    Unlock,
    examine,
    known_history,
    no_database,
    prove,
)
from nextcloud_mcp_server.migrate.plan import (
    Finding,
    State,
    refusal,
    unknown_target,
)
from nextcloud_mcp_server.migrate.startup import look_under_lock
from nextcloud_mcp_server.progress import ProgressCallback, Reporter, reporting, to_log, to_waiters
from nextcloud_mcp_server.schema.history import BASE, History
from nextcloud_mcp_server.schema.structure import Structure, gaps
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT


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


def downgrade(
    database: Path,
    revision: str | None = None,
    *,
    agreed_from: str | None = None,
    while_running: bool = False,
    unlock: Unlock | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    listener: ProgressCallback | None = None,
) -> Change:
    """Go back to ``revision`` (default: one step), in one transaction, after a backup.

    Args:
        database: the database file.
        revision: as :func:`~nextcloud_mcp_server.migrate.change.downgrade_target` takes it.
        agreed_from: the revision that the database had when a person agreed to the loss;
            None where nobody was asked.
        while_running: whether to go back under a running server.
        unlock: proves the keys at hand on what is in the database, before anything is written,
            and answers their fingerprints, for the backup's manifest.
        lock_timeout: seconds to wait for the lock.
        listener: hears how far it is (default: the log).

    Raises:
        TokenStorageError: as :func:`~nextcloud_mcp_server.migrate.change.downgrade_target`, and as
            a start does; ``declined`` where the revision is not ``agreed_from`` any more;
            ``in-use`` where a server is running; what ``unlock`` raises.
    """
    database = real_path(database)
    doing = f"downgrading it to {revision or 'the one before'}"
    with _locked(database, lock_timeout, doing, listener) as it:
        require_idle(database, while_running=while_running)
        target = downgrade_target(it.report, revision)
        recorded = it.report.finding.recorded
        if recorded is None:
            raise AssertionError("a target was found, so there is a recorded revision")
        if agreed_from not in {None, recorded}:
            raise _moved(database, agreed_from, recorded)
        if target == BASE:
            require_a_way_up(database, it.seen.structure, it.history)
        keys = prove(unlock, database, it.seen, it.report.finding.adopted)
        from nextcloud_mcp_server.migrate import run  # noqa: PLC0415 - imports Alembic

        made = run.downgrade(
            database,
            it.history,
            it.report.finding,
            target,
            it.seen.structure,
            keys=keys,
            say=it.say,
        )
        use_wal(database)
    after = None if target == BASE else target
    return Change(database, recorded, after, undone(it.history, recorded, target), made)


def _moved(database: Path, agreed: str | None, recorded: str) -> TokenStorageError:
    return TokenStorageError(
        f"{database} was at revision {agreed} when the loss was agreed to, and another process "
        f"has taken it to {recorded} meanwhile; nothing was changed.",
        code="declined",
        remedy="Stop every server, then run the command again.",
    )


def stamp(
    database: Path,
    revision: str,
    *,
    while_running: bool = False,
    unlock: Unlock | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    listener: ProgressCallback | None = None,
) -> Change:
    """Record ``revision`` (or ``base``: none) without running anything, after a backup.

    Also the way out of several disagreeing version rows. ``unlock`` is that of
    :func:`downgrade`.

    Raises:
        TokenStorageError: ``inconsistent`` where the tables deny ``revision``,
            ``unknown-revision``, and what a look may find; ``in-use`` where a server is
            running and ``while_running`` is false; what ``unlock`` raises.
    """
    database = real_path(database)
    with _locked(database, lock_timeout, f"stamping it with {revision}", listener) as it:
        require_idle(database, while_running=while_running)
        if not it.report.exists or it.report.finding.state is State.NEW:
            raise TokenStorageError(
                f"There is no table in {database} to record a revision of.",
                code="bad-input",
                remedy=f"Create it: nextcloud-mcp-server db upgrade -d {for_shell(database)}",
            )
        _check_stamp(it, revision)
        keys = prove(unlock, database, it.seen, it.report.finding.adopted)
        from nextcloud_mcp_server.migrate import run  # noqa: PLC0415 - imports Alembic

        made = run.stamp(
            database,
            it.history,
            it.report.finding,
            revision,
            it.seen.structure,
            keys=keys,
            say=it.say,
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
        f"nextcloud-mcp-server db current -d {for_shell(it.report.database)}",
    )


def real_path(database: Path) -> Path:
    """The file that ``database`` names, after checking that it can be one."""
    files.check_path(database)
    return files.follow(database)


@dataclass(frozen=True, slots=True)
class _Locked:
    """A database that was looked at under the lock, which is still held."""

    report: Report
    seen: Snapshot
    history: History
    say: Reporter


@contextmanager
def _locked(
    database: Path, lock_timeout: float, doing: str, listener: ProgressCallback | None
) -> Iterator[_Locked]:
    history = known_history()
    if not database.exists():
        raise no_database(database)
    with guard(database, lock_timeout) as held:
        require_lock(held, database)
        held.announce(doing)
        seen = look_under_lock(database, held)
        report = examine(database)
        with reporting(listener or to_log(database), to_waiters(held.announce, doing)) as say:
            say("checking its pages")
            if not report.refusal and (damage := check_pages(database)):
                raise refusal(Finding(State.CORRUPT, reason=damage), history, database)
            yield _Locked(report, seen, history, say)


# Limited: int() refuses thousands of digits. Not compiled before it is needed, as all patterns
# that a look does without.
_STEPS: Final = r"-([0-9]{1,4})"


def downgrade_target(report: Report, revision: str | None) -> str:
    """The id (or ``base``) that a downgrade ends at.

    Args:
        report: of the database.
        revision: an id, ``base``, ``-N`` (N steps), or None for one step.

    Raises:
        TokenStorageError: ``bad-path`` where there is no database, the state's code where
            it has no revision to go back from; ``unknown-revision`` or ``bad-input`` for a
            revision that is not below.
    """
    if not report.exists:
        raise no_database(report.database)
    if report.refusal:
        raise report.refusal
    history = known_history()
    recorded = report.finding.recorded
    if recorded is None:
        raise TokenStorageError(
            f"{report.database} has no recorded revision, so there is nothing to go back from.",
            code="bad-input",
            remedy="Bring it to head first: "
            f"nextcloud-mcp-server db upgrade -d {for_shell(report.database)}",
        )
    ladder = (BASE, *history.revisions[: history.revisions.index(recorded) + 1])
    wanted = "-1" if revision is None else str(revision)
    if steps := re.fullmatch(_STEPS, wanted):
        wanted = _below(report, ladder, int(steps[1]))
    if wanted != BASE and wanted not in history:
        raise unknown_target(wanted, history)
    if wanted not in ladder[:-1]:
        raise TokenStorageError(
            f"{report.database} is at revision {recorded}, which is not above {wanted}.",
            code="bad-input",
            remedy="To go up, use: nextcloud-mcp-server db upgrade "
            f"--revision {wanted} -d {for_shell(report.database)}",
        )
    return wanted


def undone(history: History, recorded: str, target: str) -> tuple[str, ...]:
    """The revisions that a downgrade from ``recorded`` to ``target`` undoes, newest first."""
    first = 0 if target == BASE else history.revisions.index(target) + 1
    return history.revisions[first : history.revisions.index(recorded) + 1][::-1]


def _below(report: Report, ladder: tuple[str, ...], steps: int) -> str:
    if steps >= len(ladder):
        raise TokenStorageError(
            f"{report.database} is at revision {ladder[-1]}, and only "
            f"{counted(len(ladder) - 1, 'revision')} can be undone.",
            code="bad-input",
            remedy="To undo every revision, and lose every row: "
            f"nextcloud-mcp-server db downgrade --revision {BASE} -d {for_shell(report.database)}",
        )
    return ladder[-1 - steps]


def propose_downgrade(
    database: Path,
    revision: str | None = None,
    *,
    while_running: bool = False,
    unlock: Unlock | None = None,
) -> tuple[Report, str]:
    """What the database is, and the id (or ``base``) that a downgrade of it ends at.

    The arguments are those of :func:`~nextcloud_mcp_server.migrate.change.downgrade`.

    Raises:
        TokenStorageError: as that, where it is known without the lock.
    """
    report, history = examine(database), known_history()
    target = downgrade_target(report, revision)
    require_idle(report.database, while_running=while_running)
    require_writable(report.database)
    with observed(report.database) as (source, seen):
        if damage := check_pages(source):
            raise refusal(Finding(State.CORRUPT, reason=damage), history, report.database)
        if target == BASE:
            require_a_way_up(report.database, seen.structure, history)
        prove(unlock, source, seen, report.finding.adopted)
    return report, target


def require_a_way_up(database: Path, structure: Structure, history: History) -> None:
    """Refuse a way down to base that has no way up again.

    Raises:
        TokenStorageError: ``bad-input`` where the database also holds what is not ours.
    """
    known = {name for r in history.revisions for name in history.structure(r).tables}
    if strangers := sorted((structure.own_tables | structure.others) - known):
        raise TokenStorageError(
            f"{database} also holds {', '.join(strangers)}: at base nothing would tell it from "
            "another application's database, and no start would touch it.",
            code="bad-input",
            remedy="Move them out first, or begin with a new file instead of going to base.",
        )
