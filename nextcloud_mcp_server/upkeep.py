"""What a person asks for by name: downgrade, stamp, back up; under the start's lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.backends.sqlite.guard import guard
from nextcloud_mcp_server.backends.sqlite.inuse import require_idle
from nextcloud_mcp_server.backends.sqlite.look import HotJournalError, check_pages, look
from nextcloud_mcp_server.backends.sqlite.session import require_lock, use_wal
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.found import Unlock, prove
from nextcloud_mcp_server.history import BASE, History
from nextcloud_mcp_server.progress import Listener, Say, heard, to_log, to_waiters
from nextcloud_mcp_server.proposal import require_a_way_up
from nextcloud_mcp_server.report import (
    Report,
    downgrade_target,
    examine,
    known_history,
    no_database,
    undone,
)
from nextcloud_mcp_server.settings import DEFAULT_LOCK_TIMEOUT
from nextcloud_mcp_server.startup import look_under_lock
from nextcloud_mcp_server.state import Finding, Observation, State, refusal, unknown_target
from nextcloud_mcp_server.structure import gaps


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
    listener: Listener | None = None,
) -> Change:
    """Go back to ``revision`` (default: one step), in one transaction, after a backup.

    Args:
        database: the database file.
        revision: as :func:`~nextcloud_mcp_server.report.downgrade_target` takes it.
        agreed_from: the revision that the database had when a person agreed to the loss;
            None where nobody was asked.
        while_running: whether to go back under a running server.
        unlock: proves the keys at hand on what is in the database, before anything is written,
            and answers their fingerprints, for the backup's manifest.
        lock_timeout: seconds to wait for the lock.
        listener: hears how far it is (default: the log).

    Raises:
        TokenStorageError: as :func:`~nextcloud_mcp_server.report.downgrade_target`, and as
            a start does; ``declined`` where the revision is not ``agreed_from`` any more;
            ``in-use`` where a server is running; what ``unlock`` raises.
    """
    database = _real(database)
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
        from nextcloud_mcp_server import transition  # noqa: PLC0415 - imports Alembic

        made = transition.downgrade(
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
    listener: Listener | None = None,
) -> Change:
    """Record ``revision`` (or ``base``: none) without running anything, after a backup.

    Also the way out of several disagreeing version rows. ``unlock`` is that of
    :func:`downgrade`.

    Raises:
        TokenStorageError: ``inconsistent`` where the tables deny ``revision``,
            ``unknown-revision``, and what a look may find; ``in-use`` where a server is
            running and ``while_running`` is false; what ``unlock`` raises.
    """
    database = _real(database)
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
        from nextcloud_mcp_server import transition  # noqa: PLC0415 - imports Alembic

        made = transition.stamp(
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


def back_up(
    database: Path,
    target: Path | None = None,
    *,
    keys: Sequence[str] | None = None,
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT,
    listener: Listener | None = None,
) -> Path:
    """Make a verified backup of a database, live or not, and return its path.

    Only where a crashed writer left a journal, which nobody can read past, is the lock
    taken and the journal rolled back first, as a start would do.

    Args:
        database: the database file.
        target: where the backup is to lie (default: beside the database, under a name
            with time and revision that is never pruned).
        keys: fingerprints of the keys at hand, for the manifest.
        lock_timeout: seconds to wait for the lock.
        listener: hears how far it is (default: the log).

    Raises:
        TokenStorageError: ``bad-path`` where there is no database or the target is taken;
            the state's code for a damaged or foreign file; ``backup-failed``.
    """
    database = _real(database)
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
    try:
        look(database)
    except HotJournalError:
        with guard(database, lock_timeout) as held:
            look_under_lock(database, held)
    revision = report.finding.recorded
    target = target or backups.backup_path(database, revision, "manual")
    with heard(listener or to_log(database)) as say:
        try:
            return backups.make_backup(database, target, kind="manual", keys=keys, say=say)
        except TokenStorageError as error:
            # A look reads the schema only: damage further in is met by the copy.
            if error.code != "backup-failed" or not (damage := check_pages(database)):
                raise
            finding = Finding(State.CORRUPT, reason=damage)
            raise refusal(finding, known_history(), database) from error


def _real(database: Path) -> Path:
    files.check_path(database)
    return files.follow(database)


@dataclass(frozen=True, slots=True)
class _Locked:
    """A database that was looked at under the lock, which is still held."""

    report: Report
    seen: Observation
    history: History
    say: Say


@contextmanager
def _locked(
    database: Path, lock_timeout: float, doing: str, listener: Listener | None
) -> Iterator[_Locked]:
    history = known_history()
    if not database.exists():
        raise no_database(database)
    with guard(database, lock_timeout) as held:
        require_lock(held, database)
        held.announce(doing)
        seen = look_under_lock(database, held)
        report = examine(database)
        with heard(listener or to_log(database), to_waiters(held.announce, doing)) as say:
            say("checking its pages")
            if not report.refusal and (damage := check_pages(database)):
                raise refusal(Finding(State.CORRUPT, reason=damage), history, database)
            yield _Locked(report, seen, history, say)
