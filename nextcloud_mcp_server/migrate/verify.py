"""Judge a migration before it is committed: may its result be kept?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextcloud_mcp_server.backends.sqlite.catalog import Execute, counts
from nextcloud_mcp_server.backends.sqlite.errors import named
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.migrate import alembic_commands
from nextcloud_mcp_server.migrate.classify import DISPOSABLE
from nextcloud_mcp_server.schema.history import BASE, History
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Structure, gaps

#: Faults of the machine, which are no fault of a revision.
_MACHINE = frozenset(
    {
        "bad-path",
        "corrupt",
        "disk-full",
        "io-error",
        "lock-timeout",
        "not-a-database",
        "read-only",
    }
)


@dataclass(frozen=True)
class Change:
    """What is known of a change beforehand, to hold the result against.

    Attributes:
        action: what it is, in one word, for the journal.
        history: the revisions of this program.
        there: the structure before.
        before: the revision recorded before; None for none.
        target: the revision to end at, or ``base``.
        steps: the revisions that run, in that order.
        note: what is mended on the way, for the journal.
        adopted: tables that are renamed back first.
        down: whether the steps are undone.
        restructures: whether the structure must be that of ``target`` afterwards.
    """

    action: str
    history: History
    there: Structure
    before: str | None
    target: str
    steps: tuple[str, ...]
    note: str = ""
    adopted: tuple[str, ...] = ()
    down: bool = False
    restructures: bool = True


def problem(
    execute: Execute,
    change: Change,
    after: Structure,
    rows: dict[str, int],
    broken: set[tuple[Any, ...]],
) -> str:
    """Why the result, of the structure ``after``, may not be committed; empty where it may."""
    if change.target != BASE:
        missing = gaps(after, change.history.structure(change.target))
        if missing and change.restructures:
            return f"the result lacks {missing}"
        versions = [row[0] for row in execute(f"SELECT version_num FROM {VERSION_TABLE}")]  # noqa: S608
        if versions != [change.target]:
            return f"the version table says {versions}"
    if new := broken_references(execute) - broken:
        return f"{counted(len(new), 'reference')} to rows that are gone ({min(map(str, new))})"
    now = counts(execute, after)
    fewer = {table for table in _kept(change, rows) if now.get(table, 0) < rows[table]}
    # Asked only now: the revisions are loaded once more for it.
    if fewer and change.steps:
        fewer -= alembic_commands.deleting(change.history, change.steps)
    if not fewer:
        return ""
    table = min(fewer)
    return f"{table} had {counted(rows[table], 'row')} and has {now.get(table, 0)}"


def broken_references(execute: Execute) -> set[tuple[Any, ...]]:
    """The rows that point at no row; what SQLite says, where it cannot compare them."""
    # Imported already: a connection is here.
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415

    try:
        return set(map(tuple, execute("PRAGMA foreign_key_check")))
    except OperationalError as error:
        # An operator's table may reference columns that are not unique: that is no reason
        # to migrate nothing, as long as it was so before.
        if "foreign key mismatch" not in str(error.orig):
            raise
        return {(str(error.orig),)}


def _kept(change: Change, rows: dict[str, int]) -> set[str]:
    """The tables that may lose no row, unless a step says so: all that the history keeps."""
    history = change.history
    wanted = Structure() if change.target == BASE else history.structure(change.target)
    ours = {name for r in history.revisions for name in history.structure(r).tables}
    dropped = ours - set(wanted.tables)
    return set(rows) - dropped - DISPOSABLE


def failing_step(change: Change, execute: Execute) -> str:
    """The revision that was running when ``change`` failed; empty where nobody can tell."""
    try:
        done = [row[0] for row in execute(f"SELECT version_num FROM {VERSION_TABLE}")]  # noqa: S608
    except Exception:  # noqa: BLE001 - only the words of another error depend on it
        return ""
    if not change.steps or change.target in done:
        return ""
    if change.down:
        return done[0] if done else ""
    revisions_left = change.history.revisions[_index(change.history, done) :]
    return revisions_left[0] if revisions_left else ""


def _index(history: History, done: Sequence[str]) -> int:
    return history.revisions.index(done[0]) + 1 if done and done[0] in history else 0


@contextmanager
def blaming(database: Path, change: Change, execute: Execute) -> Iterator[None]:
    """Tell what fails in the body by its revision, unless the machine is at fault."""
    try:
        yield
    except TokenStorageError as error:
        raise failed(database, change, failing_step(change, execute), error.message) from error
    except Exception as error:
        known = named(error, database)
        if known is not None and known.code in _MACHINE:
            raise known from error
        if file := alembic_commands.unloadable(change.history):
            raise failed(database, change, "", file) from error
        step = failing_step(change, execute)
        raise failed(database, change, step, one_line(error)) from error


def one_line(error: Exception) -> str:
    """What the driver says, or the error itself, on one line."""
    text = str(getattr(error, "orig", None) or error) or type(error).__name__
    return " ".join(text.split())


def failed(database: Path, change: Change, step: str, detail: str) -> TokenStorageError:
    """The error of a migration that was rolled back; ``step`` is empty where nobody can tell."""
    where = f" in revision {step}" if step else ""
    # A new file stays, though empty: a program that takes no lock may have it open already,
    # and would lose what it writes into a file that is unlinked.
    kept = "as it was" if change.there.tables else "an empty file"
    return TokenStorageError(
        f"Migrating {database} to {change.target} failed{where}: {detail}.",
        code="migration-failed",
        remedy=f"The database is {kept}. Start the release that ran before, and report this "
        "message; in a checkout, mend the revision and run it again.",
    )
