"""The text about the state of a database, a plan and an outcome; it opens and prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.errors import printable
from nextcloud_mcp_server.migrate.plan import Action, Plan, State
from nextcloud_mcp_server.schema.history import BASE

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.change import Change
    from nextcloud_mcp_server.migrate.inspect import Inspection
    from nextcloud_mcp_server.migrate.startup import Outcome
    from nextcloud_mcp_server.schema.revision import Revision


#: What --while-running cannot decide on a server.
UNKNOWN_SERVERS: Final = (
    "Whether a server of this program is running cannot be known for a database on a server: stop "
    "them all first."
)


def outcome_lines(outcome: Outcome) -> tuple[str, ...]:
    """Return what a start did and how long it took, then where the backup is."""
    if outcome.action is Action.NOTHING:
        return (up_to_date(outcome.database, outcome.after),)
    return (
        printable(f"{_done(outcome)} in {outcome.seconds:.2f} s"),
        *backup_lines(outcome.backup),
    )


def backup_lines(backup: Path | None) -> tuple[str, ...]:
    """Return a line that names the backup; none if no backup was made."""
    return () if backup is None else (f"backup: {printable(str(backup))}",)


def up_to_date(database: object, revision: str) -> str:
    """Return the line for a database that needs nothing."""
    return f"{printable(str(database))} is at revision {revision} already: nothing to do"


def plan_line(todo: Plan) -> str:
    """Return what an upgrade does."""
    return f"an upgrade {' and '.join(_parts(todo))}"


def repairs(todo: Plan) -> list[str]:
    """Return what an upgrade repairs before it runs migrations."""
    steps_and_stamp = ("runs ", "stamps ")
    return [part for part in _parts(todo) if not part.startswith(steps_and_stamp)]


def current_lines(inspection: Inspection) -> tuple[str, ...]:
    """Return the state of a database, then what an upgrade does, if one is pending."""
    finding = inspection.finding
    state = {
        State.AT_HEAD: f"{finding.recorded} (at-head)",
        State.BEHIND: f"{finding.recorded} (behind; head is {inspection.history.head})",
        State.PRE_ALEMBIC: "pre-alembic (it has tables but no recorded revision)",
        State.NEW: _new(inspection),
    }[finding.state]
    if inspection.ready or inspection.plan is None:
        return (state,)
    return (state, plan_line(inspection.plan))


def check_line(inspection: Inspection) -> str:
    """Return whether a database is ready, and if not, what an upgrade does."""
    path = printable(str(inspection.database))
    if inspection.ready or inspection.plan is None:
        return f"ready: {path} is at head, {inspection.history.head}"
    return f"pending: {path}: {plan_line(inspection.plan)}"


def downgrade_warning(
    inspection: Inspection, target: str, undone: Sequence[Revision], change: Change
) -> tuple[str, ...]:
    """Return what a downgrade undoes, loses and encrypts; ``change`` is the expected one."""
    path = printable(str(inspection.database))
    head = inspection.history.head
    end = "base, where it has no tables" if target == BASE else f"revision {target}"
    return (
        f"{path} is at revision {inspection.recorded} and goes back to {end}. This undoes:",
        *(f"  {r.id}  {r.title}. Loses: {r.loses or '(not documented)'}" for r in undone),
        *decrypted_lines(change),
        f"{_kept(inspection)} The next start of this version upgrades it to {head} again.",
    )


def decrypted_lines(change: Change) -> list[str]:
    """Return what a downgrade deletes and encrypts because older versions cannot read it."""
    lines = []
    if change.deleted:
        lines.append(f"rows with the hash of an id, which are deleted: {_by_table(change.deleted)}")
    if change.encrypted:
        lines.append(
            f"secrets that are encrypted for older versions, with key {change.key}: "
            f"{_by_table(change.encrypted)}"
        )
    return lines


def _by_table(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} in {table}" for table, number in sorted(numbers.items()))


def _new(inspection: Inspection) -> str:
    directory = inspection.database.directory
    if inspection.exists or directory is None:
        return "new (it has no tables)"
    return "new (no file)" if directory.exists() else "new (no file, no folder: both are created)"


def _kept(inspection: Inspection) -> str:
    """Return what becomes of the rows, and of the servers that use them."""
    if inspection.database.directory is not None:
        return "Rows are backed up first."
    return f"No backup is made on a server: make a dump first (pg_dump). {UNKNOWN_SERVERS}"


def downgraded_lines(change: Change) -> tuple[str, ...]:
    """Return what a downgrade did."""
    after = change.after or f"{BASE}: it has no tables of this program"
    path = printable(str(change.database))
    done = f"downgraded {path} from {change.before} to {after}"
    return (done, *decrypted_lines(change), *backup_lines(change.backup))


def stamp_warning(inspection: Inspection, revision: str, tables: str) -> str:
    """Return how a stamp contradicts the tables, and what the next start does then."""
    path, history = printable(str(inspection.database)), inspection.history
    counts_as = "none" if revision == BASE else revision
    # Without a recorded revision a start counts a database as what its tables are.
    steps = history.undone(tables, revision)[::-1] if revision != BASE else ()
    again = f"runs {', '.join(steps)} again" if steps else f"records {tables}"
    return f"{path} has the tables of {tables}, and not of {counts_as}: the next start {again}."


def stamped_lines(change: Change) -> tuple[str, ...]:
    """Return what a stamp did."""
    path = printable(str(change.database))
    done = f"stamped {path} with {change.after}" if change.after else f"unstamped {path}"
    return (f"{done} (recorded before: {change.before or 'none'})", *backup_lines(change.backup))


def _done(outcome: Outcome) -> str:
    path = outcome.database
    repaired = f" ({', '.join(outcome.mended)})" if outcome.mended else ""
    if outcome.action is Action.CREATE:
        return f"created {path} at revision {outcome.after}"
    if outcome.action is Action.STAMP:
        upgraded = f" and upgraded it to {outcome.after}" if outcome.steps else ""
        return f"stamped {path} with {outcome.before}{upgraded}{repaired}"
    if outcome.action is Action.UPGRADE:
        return f"upgraded {path} from {outcome.before} to {outcome.after}{repaired}"
    return (
        f"repaired {path} at revision {outcome.after}"
        f"{repaired or ' (put the version table in order)'}"
    )


def _parts(todo: Plan) -> list[str]:
    if todo.action is Action.CREATE:
        return [f"creates it at {todo.target}"]
    parts = [
        *([f"stamps it with {todo.stamp}"] if todo.stamp and todo.action is Action.STAMP else []),
        *([f"recreates {', '.join(todo.unusable)}"] if todo.unusable else []),
        *([f"renames the filled copy of {', '.join(todo.adopted)} back"] if todo.adopted else []),
        *([f"adds {todo.gaps}"] if todo.gaps else []),
        *([f"runs {', '.join(todo.steps)}"] if todo.steps else []),
    ]
    if todo.stamp and not parts:
        return ["puts the version table in order"]
    return parts
