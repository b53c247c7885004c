"""The states of a database, and the actions that each needs. Pure: nothing is opened here.

:func:`plan` is total: every finding has a plan, no plan that runs ends below its target,
and every refusal carries a remedy.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.errors import (
    WRONG_USAGE,
    TokenStorageError,
    counted,
    for_shell,
)
from nextcloud_mcp_server.schema.history import BASE, History
from nextcloud_mcp_server.schema.structure import Gaps

#: Of a number of steps; int() refuses thousands of digits.
_MOST_DIGITS: Final = 4


class State(StrEnum):
    """The states of a database. The values are the codes people see."""

    NEW = "new"
    PRE_ALEMBIC = "pre-alembic"
    BEHIND = "behind"
    AT_HEAD = "at-head"
    UNKNOWN_REVISION = "unknown-revision"
    AMBIGUOUS_VERSION = "ambiguous-version"
    INCONSISTENT = "inconsistent"
    FOREIGN = "foreign"
    CORRUPT = "corrupt"
    NOT_A_DATABASE = "not-a-database"
    ORPHANED = "orphaned"


#: States that no start may touch.
REFUSED: Final = frozenset(State) - {State.NEW, State.PRE_ALEMBIC, State.BEHIND, State.AT_HEAD}


class Finding(NamedTuple):
    """The state of a database and what follows from it.

    Attributes:
        state: the state.
        recorded: the revision in the version row, if there is exactly one.
        base: the revision that the database counts as: the recorded one, or the one that
            an unversioned database is stamped with; None for a new or refused database.
        gaps: what ``base`` has and the file lacks.
        adopted: tables to rename back after an interrupted recreation.
        unusable: disposable tables with columns that no writer fills.
        tidy: whether the version table holds exactly one row.
        reason: one line on why it is this state.
        lost: tables and columns of secrets that have been removed; the database is refused.
        typed: whether the version rows were typed by hand.
        meant: the revision that they mean, if it is exactly one.
        companion: the file to move away from an ``orphaned`` database.
    """

    state: State
    recorded: str | None = None
    base: str | None = None
    gaps: Gaps = Gaps()
    adopted: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()
    tidy: bool = True
    reason: str = ""
    lost: tuple[str, ...] = ()
    companion: str = ""
    typed: bool = False
    meant: str = ""

    @property
    def refused(self) -> bool:
        """Whether no start may touch the database."""
        return self.state in REFUSED


class Action(StrEnum):
    """What a start does. The values are the words people see."""

    CREATE = "create"
    STAMP = "stamp"
    UPGRADE = "upgrade"
    MEND = "mend"
    NOTHING = "nothing"


class Plan(NamedTuple):
    """What a start does about one database.

    Attributes:
        action: the name of the whole.
        start: the revision that the database counts as before; None for a new one.
        target: the revision that it has afterwards.
        stamp: the revision to write into the version table first; None if not needed.
        steps: the revisions to run, oldest first.
        gaps: what is added first, so that the structure is that of ``start``.
        adopted: tables to rename back first, after an interrupted recreation.
        unusable: disposable tables to recreate first.
    """

    action: Action
    target: str
    start: str | None = None
    stamp: str | None = None
    steps: tuple[str, ...] = ()
    gaps: Gaps = Gaps()
    adopted: tuple[str, ...] = ()
    unusable: tuple[str, ...] = ()

    @property
    def migrates(self) -> bool:
        """Whether anything in the file will change."""
        return self.action is not Action.NOTHING

    @property
    def activity(self) -> str:
        """What is being done, for the log and for those who wait."""
        if self.action is Action.CREATE:
            return f"creating it at revision {self.target}"
        if self.action is Action.NOTHING:
            return "switching its journal mode"
        if self.action is Action.STAMP:
            upgrading = f" and upgrading it to {self.target}" if self.steps else ""
            return f"stamping it with {self.stamp}{upgrading}"
        if self.start == self.target:
            return f"repairing it at revision {self.target}"
        return f"upgrading it from revision {self.start} to {self.target}"

    @property
    def mends(self) -> tuple[str, ...]:
        """What is repaired first, as text."""
        return (
            *(f"renamed the filled copy of {name} back" for name in self.adopted),
            *(f"recreated {name} in its released shape" for name in self.unusable),
            *((f"added {self.gaps}",) if self.gaps else ()),
        )


def plan(finding: Finding, history: History, database: Database, target: str | None = None) -> Plan:
    """Decide what a start does with a database.

    Args:
        finding: what it is.
        history: the revisions of this program.
        database: the database, for the text of a refusal only.
        target: the revision to end at: an id, or ``+N`` for N steps (default: head).

    Raises:
        TokenStorageError: the state's own code if no start may touch the database;
            ``unknown-revision`` or ``bad-input`` for a target that cannot be reached by
            going up.
    """
    target = history.head if target is None else target
    if target == BASE or is_steps(target, "-"):
        raise _is_downgrade(target, database)
    steps = is_steps(target, "+")
    if target not in history and not steps:
        from nextcloud_mcp_server.migrate.typed_revision import unknown_target  # noqa: PLC0415 - rarely needed

        raise unknown_target(target, history, database)
    if finding.refused:
        raise refusal(finding, history, database)
    revisions = history.revisions
    begin = revisions.index(finding.base) + 1 if finding.base else 0
    if steps:
        target = _steps_above(finding, history, database, begin + int(target))
    end = revisions.index(target) + 1
    if begin > end:
        raise TokenStorageError(
            f"{database} is at revision {finding.base}, which is newer than {target}.",
            code="bad-input",
            remedy="To go back, use: nextcloud-mcp-server db downgrade "
            f"--revision {target} {database.option}",
        )
    return Plan(
        action=_action(finding, goes_up=begin < end),
        start=finding.base,
        target=target,
        stamp=finding.base if finding.recorded is None or not finding.tidy else None,
        steps=revisions[begin:end],
        gaps=finding.gaps,
        adopted=finding.adopted,
        unusable=finding.unusable,
    )


def is_steps(target: object, sign: str) -> bool:
    """Return whether ``target`` is a number of steps, as ``+1`` or ``-1`` is."""
    if not isinstance(target, str):
        return False
    digits = target[1:]
    short = len(digits) <= _MOST_DIGITS and digits.isascii()
    return target[:1] == sign and short and digits.isdecimal()


def _steps_above(finding: Finding, history: History, database: Database, end: int) -> str:
    revisions = history.revisions
    if 0 < end <= len(revisions):
        return revisions[end - 1]
    begin = revisions.index(finding.base) + 1 if finding.base else 0
    if begin == len(revisions):
        raise TokenStorageError(
            f"{database} is at {finding.base}, the newest revision.",
            code="bad-input",
            remedy="Nothing is to be done. To list the revisions: nextcloud-mcp-server db history "
            f"{database.option}",
        )
    above = counted(len(revisions) - begin, "revision")
    raise TokenStorageError(
        f"{database} is at {finding.base or BASE}, and {above} can be run from there.",
        code="bad-input",
        remedy=f"To bring it to head: nextcloud-mcp-server db upgrade {database.option}",
    )


def no_step(target: str, database: Database) -> TokenStorageError:
    """Return the error for no steps in the wrong direction."""
    return TokenStorageError(
        f"{target} is no step, so nothing is to be done.",
        code="bad-input",
        remedy="To show the revision that it has: nextcloud-mcp-server db current "
        f"{database.option}",
        exit_status=WRONG_USAGE,
    )


def _is_downgrade(target: str, database: Database) -> TokenStorageError:
    if is_steps(target, "-") and not int(target):
        return no_step(target, database)
    return TokenStorageError(
        f"{target} is a step back, and an upgrade only goes up.",
        code="bad-input",
        remedy=f"To go back, use: nextcloud-mcp-server db downgrade {target} {database.option}",
        exit_status=WRONG_USAGE,
    )


def _action(finding: Finding, *, goes_up: bool) -> Action:
    if finding.state is State.NEW:
        return Action.CREATE
    if finding.state is State.PRE_ALEMBIC:
        return Action.STAMP
    if goes_up:
        return Action.UPGRADE
    mends = finding.gaps or finding.adopted or finding.unusable or not finding.tidy
    return Action.MEND if mends else Action.NOTHING


def refusal(finding: Finding, history: History, database: Database) -> TokenStorageError:
    """Return the error for a database that no start may touch."""
    message, remedy = _TEXTS[finding.state]
    shared = history.head
    if finding.lost:
        message, remedy = _LOST
    elif finding.typed:
        message, remedy = _TYPED if finding.meant else _TYPED_WORDS
    elif finding.state is State.UNKNOWN_REVISION and not _is_newer(finding.recorded, history):
        message, remedy = _OTHER_LINE
        below = [known for known in history.revisions if known < str(finding.recorded)]
        shared = below[-1] if below and str(finding.recorded).isdecimal() else "REVISION"
    if database.directory is None:
        remedy = _on_server(finding, remedy)
    facts = {
        "shared": shared,
        "database": database,
        "reason": finding.reason,
        "head": history.head,
        "option": database.option,
        "place": for_shell(str(database)),
        "meant": finding.meant,
        "companion": for_shell(finding.companion),
        "aside": for_shell(f"{finding.companion}.orphaned"),
    }
    return TokenStorageError(
        message.format(**facts), code=finding.state.value, remedy=remedy.format(**facts)
    )


def _on_server(finding: Finding, remedy: str) -> str:
    """Return the remedy for a server, where there is neither a backup nor a repair."""
    if finding.lost:
        return _LOST_ON_SERVER
    if finding.typed and finding.meant:
        return "Record the one that was meant: nextcloud-mcp-server db stamp {meant} {option}"
    return _ON_SERVER.get(finding.state, remedy)


def _is_newer(recorded: str | None, history: History) -> bool:
    """Return whether an unknown revision follows head; ids below head are of another line."""
    known, head = str(recorded), history.head
    return known.isascii() and known.isdecimal() and (len(known), known) > (len(head), head)


def unusable(tables: Mapping[str, str], database: Database) -> TokenStorageError:
    """Return the error for tables that the store cannot use, each with the reason."""
    reasons = "; ".join(f"{name}: {reason}" for name, reason in sorted(tables.items()))
    if database.directory is None:
        return TokenStorageError(
            f"{database} has tables that were changed so that this program cannot use them: "
            f"{reasons}.",
            code=State.INCONSISTENT.value,
            remedy=f"Undo that change, which is shown by psql with \\d {min(tables)} - or restore "
            "a dump from before it (pg_restore); nothing was changed.",
        )
    return TokenStorageError(
        f"{database} has tables that were changed so that this program cannot use them: {reasons}.",
        code=State.INCONSISTENT.value,
        remedy="Undo that change, which is shown by: sqlite3 "
        f"{for_shell(str(database))} '.schema {min(tables)}' - or restore a backup from before it: "
        f"nextcloud-mcp-server db restore --newest {database.option} (nothing was changed).",
    )


_RESTORE: Final = (
    "Stop every server, then: nextcloud-mcp-server db restore --newest {option} (it keeps the "
    "damaged file; nextcloud-mcp-server db backups --verify {option} lists the intact backups); "
    'without a backup try: sqlite3 {place} ".recover" | sqlite3 NEW.db'
)

_LOST: Final = (
    "{database} may have lost secrets: {reason}.",
    (
        "If there were any, restore a backup: nextcloud-mcp-server db restore --newest {option} - "
        "or, to go on without them: nextcloud-mcp-server db repair {option} (nothing was changed)."
    ),
)

_LOST_ON_SERVER: Final = (
    "If there were any, restore a dump into an empty schema (pg_restore). To go on without them: "
    "DROP TABLE migration_journal; and then nextcloud-mcp-server db upgrade {option} (nothing was "
    "changed)."
)

#: The remedies for a server, where they are others than for a file.
_ON_SERVER: Final[dict[State, str]] = {
    State.AMBIGUOUS_VERSION: "Record the revision that the tables have: nextcloud-mcp-server db "
    "stamp REVISION {option}",
    State.UNKNOWN_REVISION: "Start the release that wrote it; a version row that was typed by hand "
    "is corrected with: nextcloud-mcp-server db stamp REVISION {option}",
    State.INCONSISTENT: "Undo the change, or restore a dump into an empty schema (pg_restore); "
    "nothing was changed.",
    State.FOREIGN: "Give the store a schema of its own: CREATE SCHEMA tokens AUTHORIZATION role; "
    "ALTER ROLE role IN DATABASE name SET search_path TO tokens;",
}

_TYPED: Final = (
    "{database} has a version row that was typed by hand: {reason}.",
    (
        "Record the revision that the tables have: nextcloud-mcp-server db repair {option} "
        "(or the one that was meant: nextcloud-mcp-server db stamp {meant} {option})"
    ),
)

_TYPED_WORDS: Final = (
    "{database} has a version row that was typed by hand: {reason}.",
    (
        "Record the revision that the tables have: nextcloud-mcp-server db repair {option} "
        "(or record the correct one: nextcloud-mcp-server db stamp REVISION {option})"
    ),
)

_OTHER_LINE: Final = (
    (
        "{database} is of another line of releases: {reason}, and this program, whose newest "
        "revision is {head}, has no such revision."
    ),
    (
        "Start the release that wrote it, or go back to a revision that both have with that "
        "release's own: nextcloud-mcp-server db downgrade --revision {shared} {option}"
    ),
)

_TEXTS: Final[dict[State, tuple[str, str]]] = {
    State.UNKNOWN_REVISION: (
        "{database} is newer than this program: {reason}, and the newest revision here is {head}.",
        (
            "Start the release that wrote it, or go back with that release's own: "
            "nextcloud-mcp-server db downgrade --revision {head} {option}"
        ),
    ),
    State.AMBIGUOUS_VERSION: (
        "{database} has no single revision: {reason}.",
        (
            "Record the revision that the tables have: nextcloud-mcp-server db repair {option} "
            "(or record the correct one: nextcloud-mcp-server db stamp REVISION {option})"
        ),
    ),
    State.INCONSISTENT: (
        "{database} has tables that do not match its version row: {reason}.",
        (
            "Compare it with a backup, and restore an intact one: nextcloud-mcp-server db "
            "restore --newest {option} (nextcloud-mcp-server db backups --verify {option} "
            "lists them); nothing was changed."
        ),
    ),
    State.FOREIGN: (
        "{database} is another application's database: {reason}.",
        "Point TOKEN_STORAGE_DB or -d at the token database, or at a file that is not there yet.",
    ),
    State.CORRUPT: ("{database} is damaged: {reason}.", _RESTORE),
    State.NOT_A_DATABASE: (
        "{database} is not an SQLite database: {reason}.",
        "Point TOKEN_STORAGE_DB or -d at the token database, or at a file that is not there yet.",
    ),
    State.ORPHANED: (
        "{database} cannot be used with what lies beside it: {reason}.",
        (
            "Stop every server, then bring the database that it belongs to back to {place}; or, "
            "to do without its transactions: mv {companion} {aside}"
        ),
    ),
}
