"""What the db commands say, as lines for people and as facts for ``--json``. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextcloud_mcp_server.history import BASE
from nextcloud_mcp_server.location import Location
from nextcloud_mcp_server.report import Report
from nextcloud_mcp_server.state import Action, Plan, State
from nextcloud_mcp_server.words import backup_line, printable

if TYPE_CHECKING:
    from nextcloud_mcp_server.descriptions import Revision
    from nextcloud_mcp_server.startup import Outcome
    from nextcloud_mcp_server.upkeep import Change


def database_line(place: Location) -> str:
    """Which database a command uses, and which setting named it."""
    source = f"from {place.source}" if place.source else "the default"
    return f"database: {printable(str(place.database))} ({source})"


def fallback_line(place: Location) -> str:
    """The warning that the usual place could not be used."""
    return (
        f"warning: {place.fallback_from} cannot be used here, so "
        f"{printable(str(place.database))} is used instead. "
        "Set TOKEN_STORAGE_DB or give -d to choose another."
    )


def current_lines(report: Report) -> tuple[str, ...]:
    """What a database is, and what an upgrade would do to it."""
    first = {
        State.AT_HEAD: f"{report.finding.recorded} (head)",
        State.BEHIND: f"{report.finding.recorded} (behind; head is {report.head})",
        State.PRE_ALEMBIC: "unversioned (its tables are there, and no revision is recorded)",
        State.NEW: "empty (there is no table in it)" if report.exists else "missing (no file)",
    }[report.finding.state]
    return (first, *([pending_line(report)] if not report.ready else []))


def check_line(report: Report) -> str:
    """Whether a database is ready, in one line."""
    path = printable(str(report.database))
    if report.ready:
        return f"ready: {path} is at head, {report.head}"
    return f"pending: {path}: {pending_line(report)}"


def pending_line(report: Report) -> str:
    """What an upgrade would do."""
    if report.todo is None:
        raise ValueError("a refused database has nothing pending")
    return f"an upgrade {plan_words(report.todo)}"


def plan_words(todo: Plan) -> str:
    """What an upgrade does, as the end of a sentence that begins with it."""
    return " and ".join(_parts(todo))


def _parts(todo: Plan) -> list[str]:
    if todo.action is Action.CREATE:
        return [f"creates it at {todo.target}"]
    parts = [
        *([f"stamps it with {todo.stamp}"] if todo.stamp and todo.action is Action.STAMP else []),
        *([f"makes {', '.join(todo.unusable)} anew"] if todo.unusable else []),
        *([f"adopts the copy of {', '.join(todo.adopted)}"] if todo.adopted else []),
        *([f"adds {todo.gaps}"] if todo.gaps else []),
        *([f"runs {', '.join(todo.steps)}"] if todo.steps else []),
    ]
    if todo.stamp and not parts:
        return ["puts the version table in order"]
    return parts


def report_facts(report: Report) -> dict[str, Any]:
    """What ``db current`` and ``db check`` say, for ``--json``."""
    todo = report.todo
    return {
        "database": str(report.database),
        "exists": report.exists,
        "state": report.finding.state.value,
        "reason": report.finding.reason,
        "revision": report.finding.recorded,
        "head": report.head,
        "ready": report.ready,
        "stamp": todo.stamp if todo else None,
        "pending": list(report.pending),
        "mends": [] if todo is None or todo.action is Action.CREATE else _mends(todo),
        "journal_mode": report.journal_mode or None,
    }


def _mends(todo: Plan) -> list[str]:
    steps_and_stamp = ("runs ", "stamps ")
    return [part for part in _parts(todo) if not part.startswith(steps_and_stamp)]


def outcome_facts(outcome: Outcome) -> dict[str, Any]:
    """What ``db upgrade`` did, for ``--json``."""
    return {
        "database": str(outcome.database),
        "state": outcome.state.value,
        "action": outcome.action.value,
        "before": outcome.before,
        "after": outcome.after,
        "stamped": outcome.stamped,
        "steps": list(outcome.steps),
        "mended": list(outcome.mended),
        "backup": _text(outcome.backup),
        "journal_mode": outcome.journal_mode or None,
        "seconds": round(outcome.seconds, 6),
        "warning": outcome.warning or None,
    }


def change_facts(change: Change) -> dict[str, Any]:
    """What ``db downgrade`` and ``db stamp`` did, for ``--json``."""
    return {
        "database": str(change.database),
        "before": change.before,
        "after": change.after,
        "steps": list(change.steps),
        "backup": _text(change.backup),
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def warning_lines(
    report: Report, target: str, undone: Sequence[Revision], head: str
) -> tuple[str, ...]:
    """What a downgrade undoes and loses, before it is agreed to."""
    path = printable(str(report.database))
    where = "the beginning, without any table" if target == BASE else f"revision {target}"
    return (
        f"{path} is at revision {report.finding.recorded} and goes back to {where}. This undoes:",
        *(f"  {r.id}  {r.title}. Loses: {r.loses or 'it does not say what'}" for r in undone),
        f"Rows are backed up first. The next start of this version upgrades it to {head} again.",
    )


def downgraded_lines(change: Change) -> tuple[str, ...]:
    """What a downgrade did."""
    path = printable(str(change.database))
    after = change.after or f"{BASE}: it holds no table of this program"
    return (f"downgraded {path} from {change.before} to {after}", *backup_line(change.backup))


def stamped_lines(change: Change) -> tuple[str, ...]:
    """What a stamp did."""
    path, before = printable(str(change.database)), change.before or "none"
    what = f"stamped {path} with {change.after}" if change.after else f"unstamped {path}"
    return (f"{what} (recorded before: {before})", *backup_line(change.backup))


def downgrade_command(database: Path, target: str) -> str:
    """The command that downgrades without asking."""
    from shlex import quote  # noqa: PLC0415 - for the words of a refusal only

    path = quote(printable(str(database)))
    return f"nextcloud-mcp-server db downgrade --revision {target} -d {path} --yes"
