"""Preview an upgrade: rehearse it on a private copy, or write its statements."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite import backup
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import look_without_recovery, observed
from nextcloud_mcp_server.backends.sqlite.size import Need, Pages, pages_of, size_of, upgrade_needs
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.space import free_bytes, require_space
from nextcloud_mcp_server.migrate.inspect import Report, Unlock, examine, known_history, prove
from nextcloud_mcp_server.migrate.plan import Plan, plan
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.progress import ProgressCallback
from nextcloud_mcp_server.schema.structure import gaps

_NOTHING: Final = Need(0, 0)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What an upgrade would do and need, as its rehearsal showed.

    Attributes:
        database: the database file, which is unchanged.
        report: the inspection of it.
        todo: what an upgrade does.
        rows: the number of rows in the copy.
        seconds: how long it took on the copy, including its backup.
        need: bytes that it needs beside the database, measured on the copy.
        free: bytes that are free there; None if unknown.
    """

    database: Path
    report: Report
    todo: Plan
    rows: int = 0
    seconds: float = 0.0
    need: Need = _NOTHING
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The statements of an upgrade.

    Attributes:
        database: the database file, which is unchanged.
        todo: what they do.
        sql: the statements, for SQLite's shell; empty if there is nothing to do.
    """

    database: Path
    todo: Plan
    sql: str


def rehearse(
    database: Path,
    *,
    target: str | None = None,
    unlock: Unlock | None = None,
    progress: ProgressCallback | None = None,
) -> Rehearsal:
    """Run a complete upgrade on a copy that is deleted afterwards.

    The database is only read, and no file beside it changes. No lock is needed: the copy is
    of one moment even if other processes write.

    Args:
        database: the file; it need not exist yet.
        target: the revision to end at (default: head).
        unlock: verifies the keys on the stored secrets, and creates no key.
        progress: receives progress updates (default: the log).

    Raises:
        TokenStorageError: what the upgrade itself would raise; ``disk-full`` and
            ``read-only`` if there is no place for a copy.
    """
    report, todo = _planned(database, target)
    database = report.database
    free = free_bytes(_place(database))
    if not todo.migrates:
        with observed(database) as (source, seen):
            prove(unlock, source, seen, todo.adopted)
        return Rehearsal(database, report, todo, free=free)
    with _private_folder(_place(database), database.name) as folder:
        copy = folder / database.name
        try:
            rows, before = _copied(report, copy)
            outcome = prepare(copy, target=target, unlock=unlock, listener=progress)
        except TokenStorageError as error:
            raise _as_of(database, copy, error) from error
        growth = max(0, pages_of(copy).bytes - before.bytes)
        need = upgrade_needs(before, growth, backed_up=outcome.backup is not None)
    return Rehearsal(database, report, todo, rows, outcome.seconds, need, free)


def script(database: Path, *, target: str | None = None) -> Script:
    """Return the statements that take ``database`` from its own revision to ``target``.

    Raises:
        TokenStorageError: as an upgrade; ``bad-input`` if the database must be stamped or
            repaired first, because that depends on more than the revision.
    """
    report, todo = _planned(database, target)
    if (reason := _no_statements_for(report, todo)) and todo.migrates:
        command = f"nextcloud-mcp-server db upgrade -d {for_shell(report.database)}"
        raise TokenStorageError(
            f"There are no statements for {report.database}: {reason}.",
            code="bad-input",
            remedy=f"See what an upgrade does with '{command} --dry-run', then run: {command}",
        )
    if not todo.steps:
        return Script(report.database, todo, "")
    from nextcloud_mcp_server.migrate import alembic_commands  # noqa: PLC0415 - imports Alembic

    sql = alembic_commands.statements(known_history(), todo.start, todo.target)
    # The pragma has no effect inside a transaction. Without it, a table that is dropped and
    # created again would delete the rows that reference it.
    return Script(report.database, todo, f"PRAGMA foreign_keys=OFF;\n\n{sql.strip()}\n")


def _planned(database: Path, target: str | None) -> tuple[Report, Plan]:
    report = examine(database)
    if report.refusal:
        raise report.refusal
    return report, plan(report.finding, known_history(), report.database, target)


def _no_statements_for(report: Report, todo: Plan) -> str:
    """Return why a revision alone does not determine the statements; empty if it does."""
    if todo.stamp:
        return f"its version table has to be put in order first (it counts as {todo.stamp})"
    if todo.mends:
        return f"it has to be repaired first ({', '.join(todo.mends)})"
    if not todo.start or not report.exists:
        return ""
    history = known_history()
    there = look_without_recovery(report.database).structure.tables
    later = gaps(history.structure(todo.start), history.structure(todo.target)).columns
    early = [f"{t}.{c}" for t, c in later if t in there and c in there[t].columns]
    return f"{', '.join(early)} is there already" if early else ""


def _copied(report: Report, copy: Path) -> tuple[int, Pages]:
    """Copy the database; return the number of its rows, and its pages."""
    files.create_private(copy)
    if not report.journal_mode:
        return 0, Pages()
    with observed(report.database) as (source, _), naming(copy):
        # For the copy, its own backup, and the journal of its migration.
        require_space(copy.parent, 3 * size_of(source), "to rehearse on a copy")
        made = backup.copy_with_summary(source, copy)
    return sum(made.rows.values()), pages_of(copy)


def _as_of(database: Path, copy: Path, error: TokenStorageError) -> TokenStorageError:
    """Return the same error about the database itself."""
    message, remedy = (
        text.replace(str(copy), str(database)).replace(str(copy.parent), str(database.parent))
        for text in (error.message, error.remedy)
    )
    return TokenStorageError(message, code=error.code, remedy=remedy)


def _place(database: Path) -> Path:
    """Return the folder for the copy: beside the database, or the temporary folder."""
    return database.parent if database.parent.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def _private_folder(place: Path, name: str) -> Iterator[Path]:
    """Create a folder that only this user can enter; remove it at the end."""
    _remove_abandoned(place, name)
    with naming(place):
        folder = tempfile.TemporaryDirectory(
            prefix=f".{name}.rehearsal-", dir=place, ignore_cleanup_errors=True
        )
    with folder:
        yield Path(folder.name)


def _remove_abandoned(place: Path, name: str) -> None:
    """Remove the folders of rehearsals that were killed."""
    pattern = re.compile(re.escape(f".{name}.rehearsal-") + r"[a-z0-9_]{8}")
    with suppress(OSError):
        for folder in place.iterdir():
            if pattern.fullmatch(folder.name) and _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        # A long migration changes the copy, and not the folder.
        newest = max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
    except OSError:
        return False
    return newest < time.time() - files.ABANDONED_AFTER
