"""Verify a migration before it is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nextcloud_mcp_server.backends.base import Database, Transaction
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.migrate import alembic_commands
from nextcloud_mcp_server.migrate.classify import DISPOSABLE
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.migrate.referenced import may_reference, refusal
from nextcloud_mcp_server.schema.history import BASE
from nextcloud_mcp_server.schema.structure import Structure, gaps

#: Faults of the machine, which are no fault of a revision.
_MACHINE = frozenset(
    ["bad-path", "corrupt", "disk-full", "io-error", "lock-timeout", "not-a-database", "read-only"]
)

#: Faults of a key or of a row, which a downgrade that decrypts names itself.
_KEYS = frozenset(["key-missing", "wrong-key", "undecryptable"])


@dataclass(frozen=True)
class Change:
    """A change as it is known beforehand, to compare the result with.

    The steps, or with ``down`` their reversal, lead from ``before`` (None for no recorded revision)
    to ``target`` (a revision or ``base``).

    Attributes:
        action: one word for the journal.
        note: what is repaired on the way, for the journal.
        adopted: tables that are renamed back first.
        restructures: whether the structure must be that of ``target`` afterwards.
        backs_up: whether something changes that a backup is made before.
    """

    inspection: Inspection
    action: str
    before: str | None
    target: str
    steps: tuple[str, ...]
    note: str = ""
    adopted: tuple[str, ...] = ()
    down: bool = False
    restructures: bool = True
    backs_up: bool = True

    @property
    def database(self) -> Database:
        """The database."""
        return self.inspection.database


def require_unreferenced(transaction: Transaction, change: Change) -> None:
    """Fail if an operator's rows reference a table that a step drops; nothing is written yet.

    Raises:
        TokenStorageError: ``migration-failed``, with the statements that keep those rows.
    """
    there, dropped = change.inspection.snapshot.structure, _dropped(change)
    here = dropped.keys() & there.tables.keys()
    tables = may_reference(there, change.inspection.history) if here else []
    if tables and (found := transaction.references(tables, here)):
        raise refusal(found, dropped, change.database, f"go to {change.target}")


def _dropped(change: Change) -> dict[str, str]:
    """Return the tables that the steps drop, each with the revision."""
    history = change.inspection.history
    found: dict[str, str] = {}
    for step in change.steps:
        below = history.revisions[: history.revisions.index(step)]
        before = history.structure(below[-1]).tables.keys() if below else set()
        after = history.structure(step).tables.keys()
        found |= dict.fromkeys(after - before if change.down else before - after, step)
    return found


def problem(
    transaction: Transaction,
    change: Change,
    after: Structure,
    rows: dict[str, int],
    broken: set[tuple[Any, ...]],
) -> str:
    """Return why the result may not be committed; empty if it may."""
    if change.target != BASE:
        missing = gaps(after, change.inspection.history.structure(change.target))
        if missing and change.restructures:
            return f"the result lacks {missing}"
        versions = list(transaction.versions())
        if versions != [change.target]:
            return f"the version table holds {versions}"
    if new := transaction.broken_references() - broken:
        return f"{counted(len(new), 'reference')} to rows that are gone ({min(map(str, new))})"
    now = transaction.row_counts(after)
    fewer = {table for table in _kept(change, rows) if now.get(table, 0) < rows[table]}
    # Last, because it loads the revisions once more.
    if fewer and change.steps:
        fewer -= alembic_commands.deleting(change.inspection.history, change.steps)
    if not fewer:
        return ""
    table = min(fewer)
    return f"{table} had {counted(rows[table], 'row')} and has {now.get(table, 0)}"


def _kept(change: Change, rows: dict[str, int]) -> set[str]:
    """Return the tables that may lose no row unless a step declares it."""
    history = change.inspection.history
    wanted = {} if change.target == BASE else history.structure(change.target).tables
    dropped = history.shapes.keys() - wanted.keys()
    return rows.keys() - dropped - DISPOSABLE


class Steps:
    """Counts the revisions that have run: after an error some databases answer no question.

    Called after each revision.

    Attributes:
        done: how many have run.
    """

    def __init__(self, change: Change, after: Callable[[int], object] = lambda _: None) -> None:
        self._steps = change.steps
        self._after = after
        self.done = 0

    def __call__(self) -> None:
        """Count one more."""
        self.done += 1
        self._after(self.done)

    @property
    def failing(self) -> str:
        """The revision that was running when the change failed; empty if all have run."""
        return next(iter(self._steps[self.done :]), "")


@contextmanager
def blaming(change: Change, steps: Steps) -> Iterator[None]:
    """Name the revision that fails in the body, unless the machine is at fault."""
    try:
        yield
    except TokenStorageError as error:
        if error.code in _KEYS:
            raise
        raise failed(change, steps.failing, error.message) from error
    except Exception as error:
        known = change.database.translate(error)
        if known is not None and known.code in _MACHINE:
            raise known from error
        if file := alembic_commands.unloadable(change.inspection.history):
            raise failed(change, "", file) from error
        raise failed(change, steps.failing, one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Return the driver's message, or the error's own, on one line."""
    driver = getattr(error, "orig", None) or error
    # What else a server says is on further lines, and may hold values.
    primary = getattr(getattr(driver, "diag", None), "message_primary", None)
    text = primary or str(driver) or type(error).__name__
    return " ".join(text.split())


def failed(change: Change, step: str, detail: str) -> TokenStorageError:
    """Return the error of a migration that was rolled back; ``step`` is empty if unknown."""
    where = f" in revision {step}" if step else ""
    # A new file stays, though empty: a program that takes no lock may have it open already,
    # and would lose what it writes into a file that is unlinked.
    was_there = change.inspection.snapshot.structure.tables or change.database.directory is None
    kept = "as it was" if was_there else "an empty file"
    return TokenStorageError(
        f"Migrating {change.database} to {change.target} failed{where}: {detail}.",
        code="migration-failed",
        remedy=f"The database is {kept}. Start the release that ran before, and report this "
        "message; in a checkout, fix the revision and run it again.",
    )
