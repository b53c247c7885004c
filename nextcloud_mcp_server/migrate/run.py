"""One migration in one transaction: back up, mend, stamp, run, verify; commit only then.

Killed anywhere, the file is as it was: nothing is committed before everything is checked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextcloud_mcp_server.backends.sqlite import alter, backup
from nextcloud_mcp_server.backends.sqlite.catalog import (
    Execute,
    count,
    counts,
    quoted,
    read_structure,
)
from nextcloud_mcp_server.backends.sqlite.errors import named
from nextcloud_mcp_server.backends.sqlite.transaction import migration_transaction
from nextcloud_mcp_server.concurrency import run_in_own_loop
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.migrate import alembic_commands, journal, verify
from nextcloud_mcp_server.migrate.alembic_commands import Applied
from nextcloud_mcp_server.migrate.classify import TEMPORARY, ours
from nextcloud_mcp_server.migrate.plan import Action, Finding, Plan
from nextcloud_mcp_server.migrate.verify import Change
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.schema.history import BASE, History
from nextcloud_mcp_server.schema.structure import Structure, gaps

if TYPE_CHECKING:
    from sqlalchemy import Connection


#: Faults after which the backup is kept: there it may be needed. After every other one the
#: database is as it was, and a start that is tried again and again would fill the disk.
_DAMAGING = frozenset({"corrupt", "io-error", "not-a-database"})


#: Changes the database, and calls what it is given after each revision.
Work = Callable[["Connection", Applied], None]


def _nothing(_: Execute) -> None:
    """Begin with nothing."""


def migrate(
    database: Path,
    history: History,
    todo: Plan,
    there: Structure,
    *,
    keys: Sequence[str] | None = None,
    first: Callable[[Execute], None] = _nothing,
    say: Reporter = silent,
) -> Path | None:
    """Do what ``todo`` says, all of it or nothing; the backup that was made before.

    The caller holds the lock and has checked the pages. ``keys`` are the fingerprints of the
    keys at hand, which the backup's manifest names; ``first`` begins the transaction, where
    a repair makes the tables what the plan takes them for; ``say`` is told how far it is.

    Raises:
        TokenStorageError: ``migration-failed`` and the faults of the machine; the
            database is as it was.
    """
    recorded = None if todo.action is Action.STAMP else todo.start
    change = Change(
        todo.action.value,
        history,
        there,
        recorded,
        todo.target,
        todo.steps,
        note=_note(todo),
        adopted=todo.adopted,
    )

    def work(connection: Connection, applied: Applied) -> None:
        execute = _executor(connection)
        attached = alter.attached(execute)
        first(execute)
        _mend(execute, history, todo)
        if todo.stamp:
            alembic_commands.stamp(connection, history, todo.stamp)
        if todo.steps:
            alembic_commands.upgrade(connection, history, todo.target, applied, say)
        final = history.structure(todo.target)
        # What a crashed upgrade had made half of, its revision has found and passed by.
        alter.fill(execute, gaps(read_structure(execute, history.known), final), final)
        alter.attach(execute, attached, history.indexes)

    return _run(database, change, work, keys, say)


def _note(todo: Plan) -> str:
    """What the journal says beside the revisions."""
    stamped = [f"stamped with {todo.stamp}"] if todo.action is Action.STAMP else []
    tidied = ["put the version table in order"] if todo.stamp and not stamped else []
    return "; ".join([*stamped, *tidied, *todo.mends])


def downgrade(
    database: Path,
    history: History,
    finding: Finding,
    target: str,
    there: Structure,
    *,
    keys: Sequence[str] | None = None,
    say: Reporter = silent,
) -> Path | None:
    """Run the revisions from the recorded one down to ``target`` (an id or ``base``).

    Raises:
        TokenStorageError: as :func:`migrate`.
    """
    first = 0 if target == BASE else history.revisions.index(target) + 1
    recorded = str(finding.recorded)
    steps = history.revisions[first : history.revisions.index(recorded) + 1]
    downwards = tuple(reversed(steps))
    change = Change(
        "downgrade",
        history,
        there,
        recorded,
        target,
        downwards,
        adopted=finding.adopted,
        down=True,
    )

    def work(connection: Connection, applied: Applied) -> None:
        _mend(_executor(connection), history, finding)
        if not finding.tidy:
            alembic_commands.stamp(connection, history, recorded)
        alembic_commands.downgrade(connection, history, target, applied, say)
        if target == BASE:
            _drop_leftovers(_executor(connection), history)

    return _run(database, change, work, keys, say)


def _drop_leftovers(execute: Execute, history: History) -> None:
    """Drop what a crashed upgrade had made above the recorded revision.

    No downgrade knows of it, and a base with some of our tables could not go up again.
    """
    for name in sorted(ours(read_structure(execute), history)):
        execute(f"DROP TABLE {quoted(name)}")


def _mend(execute: Execute, history: History, owed: Plan | Finding) -> None:
    """Give the database the structure of the revision that it counts as."""
    base = owed.start if isinstance(owed, Plan) else owed.base
    alter.adopt(execute, owed.adopted, TEMPORARY)
    if owed.unusable:
        final = history.structure(history.head)
        alter.remake(execute, read_structure(execute), final, owed.unusable)
    if base:
        alter.fill(execute, owed.gaps, history.structure(base))


def stamp(
    database: Path,
    history: History,
    finding: Finding,
    revision: str,
    there: Structure,
    *,
    keys: Sequence[str] | None = None,
    say: Reporter = silent,
) -> Path | None:
    """Make ``revision`` (or ``base``: none) the one row of the version table."""
    change = Change("stamp", history, there, finding.recorded, revision, (), restructures=False)

    def work(connection: Connection, _applied: Applied) -> None:
        alembic_commands.stamp(connection, history, revision)

    return _run(database, change, work, keys, say)


def _run(
    database: Path,
    change: Change,
    work: Work,
    keys: Sequence[str] | None,
    say: Reporter,
) -> Path | None:
    begun = time.monotonic()
    made: Path | None = None

    async def main() -> None:
        nonlocal made
        async with migration_transaction(database) as connection:
            # The transaction is open and has written nothing, so a second connection
            # copies exactly the state that is about to be migrated.
            rows = await connection.run_sync(lambda c: _rows(_executor(c), database, change))
            if any(number for table, number in rows.items() if table != journal.TABLE):
                backup.prune(database)
                target = backup.backup_path(database, change.before)
                made = backup.make_backup(database, target, keys=keys, report=say)
            after = await connection.run_sync(
                lambda c: _checked(c, database, change, rows, work, say=say)
            )
            if journal.is_kept(after):
                await connection.run_sync(lambda c: _write_down(c, database, change, begun, made))

    try:
        run_in_own_loop(lambda: asyncio.run(main()))
    except Exception as error:
        known = named(error, database) or verify.failed(
            database, change, "", verify.one_line(error)
        )
        if made and known.code not in _DAMAGING:
            with suppress(OSError):
                backup.discard(made)
        if known is error:
            raise
        raise known from error
    if made:
        backup.prune(database)
    return made


def _rows(execute: Execute, database: Path, change: Change) -> dict[str, int]:
    """The rows of every table before the change, under the names that they keep."""
    if read_structure(execute, change.history.known) != change.there:
        raise TokenStorageError(
            f"Another program, which takes no lock, has changed the tables of {database} just now.",
            code="lock-timeout",
            remedy="Stop every other program that migrates this database, then try again.",
        )
    adopted = {name: count(execute, TEMPORARY + name) for name in change.adopted}
    return counts(execute, change.there) | adopted


def _executor(connection: Connection) -> Execute:
    def execute(sql: str) -> Sequence[Sequence[Any]]:
        result = connection.exec_driver_sql(sql)
        return result.all() if result.returns_rows else ()

    return execute


def _checked(
    connection: Connection,
    database: Path,
    change: Change,
    rows: dict[str, int],
    work: Work,
    *,
    say: Reporter,
) -> Structure:
    """Do the work, and find nothing wrong with it; the structure that it has left."""
    execute = _executor(connection)
    broken = verify.broken_references(execute)
    with verify.blaming(database, change, execute):
        work(connection, _step_by_step(change, sum(rows.values()), say))
    say("checking the result")
    after = read_structure(execute, change.history.known)
    if problem := verify.problem(execute, change, after, rows, broken):
        raise verify.failed(database, change, verify.failing_step(change, execute), problem)
    return after


def _step_by_step(change: Change, rows: int, say: Reporter) -> Applied:
    """Say which revision runs; the answer is to be called after each."""
    held = counted(rows, "row")
    steps = iter(enumerate(change.steps))

    def applied() -> None:
        for number, step in steps:
            say(f"running revision {step} on {held}", number, len(change.steps), "revisions")
            return

    applied()
    return applied


def _write_down(
    connection: Connection, database: Path, change: Change, begun: float, made: Path | None
) -> None:
    """Tell the journal."""
    after = None if change.target == BASE else change.target
    entry = journal.entry(
        change.action, change.before, after, begun=begun, backup=made, note=change.note
    )
    with verify.blaming(database, change, _executor(connection)):
        journal.record(connection.exec_driver_sql, entry)
