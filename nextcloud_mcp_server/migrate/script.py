"""The statements of an upgrade or a downgrade, instead of running them."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.migrate import change as changes
from nextcloud_mcp_server.migrate.inspect import Inspection, inspect
from nextcloud_mcp_server.migrate.plan import Plan
from nextcloud_mcp_server.schema.history import BASE, History
from nextcloud_mcp_server.schema.structure import gaps


@dataclass(frozen=True, slots=True)
class Script:
    """The statements of a change, for the shell of the engine; empty if there is nothing to do.

    Attributes:
        start: the revision that they start from; None for a new database.
        target: the revision that they end at, or ``base``.
        steps: the revisions that they run or undo, in this order.
    """

    database: Path | ServerUrl
    start: str | None
    target: str
    steps: tuple[str, ...]
    sql: str


def script(place: Database, *, target: str | None = None) -> Script:
    """Return the statements that take ``place`` from its own revision to ``target``.

    Raises:
        TokenStorageError: as an upgrade; ``bad-input`` if the database must be stamped or
            repaired first, because that depends on more than the revision, or if a revision
            reads the database.
    """
    inspection = inspect(place, target)
    todo = inspection.accepted()
    if (reason := _no_statements_for(inspection, todo)) and todo.migrates:
        raise _no_statements(place, reason)
    sql = _statements(place, inspection.history, todo.start, todo.target) if todo.steps else ""
    return Script(place.location, todo.start, todo.target, todo.steps, sql)


def script_downgrade(place: Database, revision: str | None = None) -> Script:
    """Return the statements that take ``place`` back to ``revision``.

    Raises:
        TokenStorageError: as a downgrade, except ``in-use``; ``bad-input`` if the database
            must be repaired first, or if a revision decrypts or reads the database.
    """
    inspection, target = changes.plan_downgrade(place, revision)
    todo, history, recorded = inspection.accepted(), inspection.history, str(inspection.recorded)
    above = history.shapes.keys() - history.structure(recorded).tables.keys()
    there = sorted(above & inspection.snapshot.structure.tables.keys())
    reason = f"it has {', '.join(there)} already" if there else _to_repair(todo)
    if reason:
        raise _no_statements(place, reason)
    sql = _statements(place, history, recorded, target, down=True)
    return Script(place.location, recorded, target, history.undone(recorded, target), sql)


def _statements(
    place: Database, history: History, start: str | None, target: str, *, down: bool = False
) -> str:
    from nextcloud_mcp_server.migrate import alembic_commands  # noqa: PLC0415 - imports Alembic

    sql = StringIO()
    end = None if target == BASE else target
    alembic_commands.write_sql(
        history,
        start,
        end,
        sql,
        dialect=history.engine,
        down=down,
        instead=_instead(place, target, down=down),
    )
    if history.engine != "sqlite":
        return f"{sql.getvalue().strip()}\n"
    # The pragma has no effect inside a transaction. Without it, a table that is dropped and
    # created again would delete the rows that reference it.
    return f"PRAGMA foreign_keys=OFF;\n\n{sql.getvalue().strip()}\n"


def _instead(place: Database, target: str, *, down: bool) -> str:
    """Return the remedy for a change that has no statements. A server has no copy to try it on."""
    name = "downgrade" if down else "upgrade"
    command = f"nextcloud-mcp-server db {name} {target} {place.option}"
    if place.directory is not None:
        return f"Run it on a copy, which is deleted afterwards: {command} --dry-run"
    if down:
        return f"Run it on the database: it lists what is lost, and asks first: {command}"
    return f"See what would run: nextcloud-mcp-server db check {place.option} - then run: {command}"


def _no_statements(place: Database, reason: str) -> TokenStorageError:
    command = f"nextcloud-mcp-server db upgrade {place.option}"
    preview = f"{command} --dry-run"
    if place.directory is None:
        preview = f"nextcloud-mcp-server db check {place.option}"
    return TokenStorageError(
        f"There are no statements for {place}: {reason}.",
        code="bad-input",
        remedy=f"See what an upgrade does: {preview} - then run: {command}",
    )


def _no_statements_for(inspection: Inspection, todo: Plan) -> str:
    """Return why a revision alone does not determine the statements; empty if it does."""
    if reason := _to_repair(todo):
        return reason
    if not todo.start or not inspection.exists:
        return ""
    history, there = inspection.history, inspection.snapshot.structure.tables
    later = gaps(history.structure(todo.start), history.structure(todo.target)).columns
    early = [f"{t}.{c}" for t, c in later if t in there and c in there[t].columns]
    return f"{', '.join(early)} is there already" if early else ""


def _to_repair(todo: Plan) -> str:
    if todo.stamp:
        return f"its version table has to be put in order first (it counts as {todo.stamp})"
    return f"it has to be repaired first ({', '.join(todo.mends)})" if todo.mends else ""
