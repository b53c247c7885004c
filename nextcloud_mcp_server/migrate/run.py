"""One migration in one transaction: back up, repair, stamp, run, verify; commit only then.

Killed anywhere, the database is as it was: nothing is committed before everything is verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.backends.base import LockedDatabase, Transaction
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.migrate import alembic_commands, journal, verify
from nextcloud_mcp_server.migrate.alembic_commands import Applied
from nextcloud_mcp_server.migrate.classify import TEMPORARY, ours
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.migrate.plan import Action, Finding, Plan
from nextcloud_mcp_server.migrate.verify import Change
from nextcloud_mcp_server.progress import Reporter, silent
from nextcloud_mcp_server.schema.history import BASE, History
from nextcloud_mcp_server.schema.structure import Structure, gaps

if TYPE_CHECKING:
    from nextcloud_mcp_server.migrate.decryption import Decryption

#: Changes the database, and calls its second argument after each revision.
Work = Callable[[Transaction, Applied], None]


def migrate(
    inspection: Inspection,
    locked: LockedDatabase,
    *,
    keys: Sequence[str] | None = None,
    first: Callable[[Transaction], object] = lambda _: None,
    report: Reporter = silent,
) -> Path | None:
    """Carry out the plan of ``inspection``, all of it or nothing.

    Args:
        inspection: what was found under the lock; the engine's integrity check has passed.
        locked: the database.
        keys: fingerprints of the available keys, for the backup's manifest.
        first: called at the begin of the transaction; a repair makes the tables what the
            plan takes them for.
        report: receives progress updates.

    Returns:
        The backup that was made before; None if there was nothing to keep.

    Raises:
        TokenStorageError: ``migration-failed``, or a fault of the machine. The database is
            as it was.
    """
    plan, history = inspection.accepted(), inspection.history
    recorded = None if plan.action is Action.STAMP else plan.start
    change = Change(
        inspection,
        plan.action.value,
        recorded,
        plan.target,
        plan.steps,
        backs_up=plan.action is not Action.CREATE,
        note=_note(plan),
        adopted=plan.adopted,
    )

    def work(transaction: Transaction, applied: Applied) -> None:
        with transaction.keep_attached(history.indexes):
            first(transaction)
            _repair(transaction, history, plan)
            if plan.stamp:
                alembic_commands.stamp(transaction.connection, history, plan.stamp)
            if plan.steps:
                alembic_commands.upgrade(
                    transaction.connection, history, plan.target, applied, report
                )
            final = history.structure(plan.target)
            # An interrupted upgrade may have left part of what a revision makes: the revision
            # skipped that part.
            transaction.add(gaps(transaction.structure(), final), final)

    return _run(locked, change, work, keys, report)


def _note(plan: Plan) -> str:
    """Return what the journal records beside the revisions."""
    stamped = [f"stamped with {plan.stamp}"] if plan.action is Action.STAMP else []
    tidied = ["put the version table in order"] if plan.stamp and not stamped else []
    return "; ".join([*stamped, *tidied, *plan.mends])


def downgrade(
    inspection: Inspection,
    locked: LockedDatabase,
    target: str,
    *,
    decryption: Decryption | None = None,
    keys: Sequence[str] | None = None,
    report: Reporter = silent,
) -> Path | None:
    """Run the revisions from the recorded one down to ``target`` (an id or ``base``).

    ``decryption`` has the keys, and counts what it does. Returns and raises as :func:`migrate`.
    """
    finding, history = inspection.finding, inspection.history
    recorded = str(finding.recorded)
    change = Change(
        inspection,
        "downgrade",
        recorded,
        target,
        history.undone(recorded, target),
        adopted=finding.adopted,
        down=True,
    )

    def work(transaction: Transaction, applied: Applied) -> None:
        _repair(transaction, history, finding)
        connection = transaction.connection
        if not finding.tidy:
            alembic_commands.stamp(connection, history, recorded)
        alembic_commands.downgrade(
            connection, history, target, applied, report, decryption=decryption
        )
        if target == BASE:
            # What an interrupted upgrade left above the recorded revision is in no downgrade,
            # and a base with some of our tables could not go up again.
            for name in sorted(ours(transaction.structure(), history)):
                transaction.drop(name)

    return _run(locked, change, work, keys, report)


def _repair(transaction: Transaction, history: History, pending: Plan | Finding) -> None:
    """Give the database the structure of the revision that it counts as."""
    base = pending.start if isinstance(pending, Plan) else pending.base
    transaction.rename_back(pending.adopted, TEMPORARY)
    transaction.recreate(pending.unusable, history.structure(history.head))
    if base:
        transaction.add(pending.gaps, history.structure(base))


def stamp(
    inspection: Inspection,
    locked: LockedDatabase,
    revision: str,
    *,
    keys: Sequence[str] | None = None,
    report: Reporter = silent,
) -> Path | None:
    """Make ``revision`` (or ``base``: none) the only row of the version table.

    Returns and raises as :func:`migrate`.
    """
    recorded = () if revision == BASE else (revision,)
    change = Change(
        inspection,
        "stamp",
        inspection.every_recorded,
        revision,
        (),
        restructures=False,
        backs_up=inspection.snapshot.versions != recorded,
    )

    def work(transaction: Transaction, _applied: Applied) -> None:
        alembic_commands.stamp(transaction.connection, inspection.history, revision)

    return _run(locked, change, work, keys, report)


def _run(
    locked: LockedDatabase,
    change: Change,
    work: Work,
    keys: Sequence[str] | None,
    report: Reporter,
) -> Path | None:
    # Alembic would run the last file of an id, whatever its name is.
    begun = time.monotonic()

    def transact(transaction: Transaction) -> Path | None:
        # The transaction is open and has written nothing, so a second connection copies
        # exactly the state that is about to be migrated.
        rows = _rows(transaction, change)
        verify.require_unreferenced(transaction, change)
        backup = None
        if change.backs_up and any(rows[table] for table in rows.keys() - {journal.TABLE}):
            backup = transaction.backup(
                change.before, action=change.action, keys=keys, report=report
            )
        after, steps = _change(transaction, change, rows, work, report)
        if journal.is_kept(after):
            with verify.blaming(change, steps):
                journal.warn_of_clock(transaction, change.database)
                journal.record(
                    transaction.execute,
                    change.action,
                    change.before,
                    None if change.target == BASE else change.target,
                    begun=begun,
                    backup=backup,
                    note=change.note,
                )
        return backup

    try:
        return locked.transact(transact)
    except Exception as error:
        known = change.database.translate(error)
        if known is error:
            raise
        raise known or verify.failed(change, "", verify.one_line(error)) from error


def _rows(transaction: Transaction, change: Change) -> dict[str, int]:
    """Count the rows of every table before the change, under the names that they keep."""
    before = change.inspection.snapshot.structure
    if transaction.structure() != before:
        raise TokenStorageError(
            f"Another program, which takes no lock, has changed the tables of {change.database} "
            "just now.",
            code="lock-timeout",
            remedy="Stop every other program that migrates this database, then try again.",
        )
    adopted = {name: transaction.count(TEMPORARY + name) for name in change.adopted}
    return transaction.row_counts(before) | adopted


def _change(
    transaction: Transaction,
    change: Change,
    rows: dict[str, int],
    work: Work,
    report: Reporter,
) -> tuple[Structure, verify.Steps]:
    """Do the work and verify it; return the structure that it left, and the steps that ran."""
    total = counted(sum(rows.values()), "row")

    def running(number: int) -> None:
        for step in change.steps[number : number + 1]:
            report(f"running revision {step} on {total}", number, len(change.steps), "revisions")

    steps = verify.Steps(change, running)
    broken = transaction.broken_references()
    running(0)
    with verify.blaming(change, steps):
        work(transaction, steps)
    report("checking the result")
    after = transaction.structure()
    if problem := verify.problem(transaction, change, after, rows, broken):
        raise verify.failed(change, steps.failing, problem)
    return after, steps
