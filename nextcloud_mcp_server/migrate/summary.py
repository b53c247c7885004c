"""The text about a plan and about an outcome, the same from a command and the server.

Pure: no database is opened, and nothing printed, here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nextcloud_mcp_server.errors import printable
from nextcloud_mcp_server.migrate.plan import Action, Plan

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.startup import Outcome


def describe_outcome(outcome: Outcome) -> str:
    """One line on what a start found and did, in how long, and where the backup lies."""
    return "; ".join(outcome_lines(outcome))


def outcome_lines(outcome: Outcome) -> tuple[str, ...]:
    """As :func:`describe_outcome`, the place of the backup in a line of its own."""
    line = printable(_done(outcome))
    if outcome.action is not Action.NOTHING:
        line = f"{line} in {outcome.seconds:.2f} s"
    return (line, *backup_line(outcome.backup))


def backup_line(backup: object) -> tuple[str, ...]:
    """The line on a backup; none where there was nothing to keep."""
    return () if backup is None else (f"backup: {printable(str(backup))}",)


def _done(outcome: Outcome) -> str:
    path, mended = outcome.database, _mended(outcome)
    if outcome.action is Action.CREATE:
        return f"created {path} at revision {outcome.after}"
    if outcome.action is Action.STAMP:
        upgraded = f" and upgraded it to {outcome.after}" if outcome.steps else ""
        return f"stamped {path} with {outcome.before}{upgraded}{mended}"
    if outcome.action is Action.UPGRADE:
        return f"upgraded {path} from {outcome.before} to {outcome.after}{mended}"
    if outcome.action is Action.MEND:
        what = mended or " (put the version table in order)"
        return f"mended {path} at revision {outcome.after}{what}"
    return f"{path} is at revision {outcome.after} already: nothing to do"


def _mended(outcome: Outcome) -> str:
    return f" ({', '.join(outcome.mended)})" if outcome.mended else ""


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


def mends(todo: Plan) -> list[str]:
    """What an upgrade repairs on the way, as parts of the same sentence."""
    steps_and_stamp = ("runs ", "stamps ")
    return [part for part in _parts(todo) if not part.startswith(steps_and_stamp)]
