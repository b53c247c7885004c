"""Say what a database is, without a lock, without a change, and without a heavy import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.backends.sqlite.look import look_without_recovery
from nextcloud_mcp_server.classify import classify
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.history import BASE, History, load_history
from nextcloud_mcp_server.state import Action, Finding, Plan, plan, refusal, unknown_target

# Limited: int() refuses thousands of digits. Not compiled before it is needed, as all patterns
# that a look does without.
_STEPS: Final = r"-([0-9]{1,4})"


class Report(NamedTuple):
    """What a database is, as a look finds it.

    Attributes:
        database: the database file.
        exists: whether there is a file.
        finding: its state, and why.
        head: the newest revision of this program.
        todo: what a start would do; None where it would refuse.
        journal_mode: SQLite's journal mode; empty without a file.
        refusal: the error that a start would raise; None where it would not.
    """

    database: Path
    exists: bool
    finding: Finding
    head: str
    todo: Plan | None
    journal_mode: str
    refusal: TokenStorageError | None

    @property
    def ready(self) -> bool:
        """Whether a start would find nothing to do to the schema."""
        return self.todo is not None and self.todo.action is Action.NOTHING

    @property
    def pending(self) -> tuple[str, ...]:
        """The revisions that a start would run."""
        return self.todo.steps if self.todo else ()


def known_history() -> History:
    """The history with every structure, which needs Alembic only in a developer's checkout."""
    history = load_history()
    if history.unknown_structures:
        from nextcloud_mcp_server import trial  # noqa: PLC0415 - imports Alembic

        return trial.complete(history)
    return history


def examine(database: Path) -> Report:
    """Say what ``database`` is. Nothing of it changes: no lock, no journal rolled back.

    Beside one in WAL mode that nobody has open, SQLite leaves a ``-shm`` and an empty ``-wal``, as
    it does for every reader.

    Raises:
        TokenStorageError: where the path cannot hold a database or cannot be read.
    """
    files.check_path(database)
    database = files.follow(database)
    history = known_history()
    seen = look_without_recovery(database, history.known)
    finding = classify(seen, history)
    return Report(
        database=database,
        exists=database.exists(),
        finding=finding,
        head=history.head,
        todo=None if finding.refused else plan(finding, history, database),
        journal_mode=seen.journal_mode,
        refusal=refusal(finding, history, database) if finding.refused else None,
    )


def no_database(database: Path) -> TokenStorageError:
    """The error for a change that was asked for of a database that is not there."""
    return TokenStorageError(
        f"There is no database at {database}.",
        code="bad-path",
        remedy="Give the path of the token database with -d, or create it: "
        f"nextcloud-mcp-server db upgrade {_named(database)}",
    )


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
            f"nextcloud-mcp-server db upgrade {_named(report.database)}",
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
            f"--revision {wanted} {_named(report.database)}",
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
            f"nextcloud-mcp-server db downgrade --revision {BASE} {_named(report.database)}",
        )
    return ladder[-1 - steps]


def _named(database: Path) -> str:
    return f"-d {for_shell(database)}"
