"""An upgrade that changes nothing: rehearsed on a private copy, or written as statements."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
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

#: Seconds after which the folder of a rehearsal that holds no lock is a dead one's; where
#: the file system cannot lock, it must be much older.
_SETTLED: Final = 60.0
_SURELY_DEAD: Final = 86_400.0


_NONE: Final = Need(0, 0)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What an upgrade would do and take, as its rehearsal has shown.

    Attributes:
        database: the database file, which is as it was.
        report: what it is.
        todo: what an upgrade does.
        rows: the rows of the copy.
        seconds: how long it took on the copy, its backup included.
        need: bytes that it takes beside the database while it runs, by what the copy grew by.
        free: bytes that are free there; None where nobody can tell.
    """

    database: Path
    report: Report
    todo: Plan
    rows: int = 0
    seconds: float = 0.0
    need: Need = _NONE
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The statements of an upgrade.

    Attributes:
        database: the database file, which is as it was.
        todo: what they do.
        sql: the statements, for SQLite's shell; empty where there is nothing to do.
    """

    database: Path
    todo: Plan
    sql: str


def rehearse(
    database: Path,
    *,
    target: str | None = None,
    unlock: Unlock | None = None,
    listener: ProgressCallback | None = None,
) -> Rehearsal:
    """Do what an upgrade does, all of it, on a copy that is gone afterwards.

    The database is only read, and nothing that lies beside it changes. No lock is needed:
    the copy is of one moment, whoever writes meanwhile.

    Args:
        database: the file; it need not be there yet.
        target: the revision to end at (default: head).
        unlock: proves the keys on what is in the database, and makes none.
        listener: hears how far it is (default: the log).

    Raises:
        TokenStorageError: what the upgrade itself would raise; ``disk-full`` and
            ``read-only`` where there is no place for a copy.
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
            outcome = prepare(copy, target=target, unlock=unlock, listener=listener)
        except TokenStorageError as error:
            raise _as_of(database, copy, error) from error
        growth = max(0, pages_of(copy).bytes - before.bytes)
        need = upgrade_needs(before, growth, backed_up=outcome.backup is not None)
    return Rehearsal(database, report, todo, rows, outcome.seconds, need, free)


def script(database: Path, *, target: str | None = None) -> Script:
    """The statements that take ``database`` from its own revision to ``target``.

    Raises:
        TokenStorageError: as an upgrade; ``bad-input`` where something has to be stamped or
            mended first, which depends on more than a revision.
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
    # It does nothing inside a transaction, and a table that is dropped and made again would
    # take the rows of others along.
    return Script(report.database, todo, f"PRAGMA foreign_keys=OFF;\n\n{sql.strip()}\n")


def _planned(database: Path, target: str | None) -> tuple[Report, Plan]:
    report = examine(database)
    if report.refusal:
        raise report.refusal
    return report, plan(report.finding, known_history(), report.database, target)


def _no_statements_for(report: Report, todo: Plan) -> str:
    """Why statements for a database exactly at a revision would not do; empty where they do."""
    if todo.stamp:
        return f"its version table has to be put in order first (it counts as {todo.stamp})"
    if todo.mends:
        return f"it has to be mended first ({', '.join(todo.mends)})"
    if not todo.start or not report.exists:
        return ""
    history = known_history()
    there = _columns(report.database)
    later = gaps(history.structure(todo.start), history.structure(todo.target)).columns
    early = [f"{t}.{c}" for t, c in later if t in there and c in there[t]]
    return f"{', '.join(early)} is there already" if early else ""


def _columns(database: Path) -> dict[str, frozenset[str]]:
    """The columns of each table."""
    tables = look_without_recovery(database).structure.tables
    return {name: frozenset(table.columns) for name, table in tables.items()}


def _copied(report: Report, copy: Path) -> tuple[int, Pages]:
    """Copy the database; its rows and its pages."""
    files.create_private(copy)
    if not report.journal_mode:
        return 0, Pages()
    with observed(report.database) as (source, _):
        return _copy(source, copy)


def _copy(source: Path, copy: Path) -> tuple[int, Pages]:
    # The copy, its own backup, and the journal of its migration.
    require_space(copy.parent, 3 * size_of(source), "to rehearse on a copy")
    with naming(copy):
        made = backup.copy_with_summary(source, copy)
    return sum(made.rows.values()), pages_of(copy)


def _as_of(database: Path, copy: Path, error: TokenStorageError) -> TokenStorageError:
    """The same error, told of the database itself."""
    message, remedy = (
        text.replace(str(copy), str(database)).replace(str(copy.parent), str(database.parent))
        for text in (error.message, error.remedy)
    )
    return TokenStorageError(message, code=error.code, remedy=remedy)


def _place(database: Path) -> Path:
    """Where the copy is to lie: beside the database, or where nothing is kept that is none."""
    return database.parent if database.parent.is_dir() else Path(tempfile.gettempdir())


@contextmanager
def _private_folder(place: Path, name: str) -> Iterator[Path]:
    """A folder that only this user may enter, and that is gone afterwards with all in it."""
    _clear(place, name)
    folder = place / f".{name}.rehearsal-{secrets.token_hex(4)}"
    with naming(place):
        folder.mkdir(mode=0o700)
    try:
        with _marked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _marked(folder: Path) -> Iterator[None]:
    """Hold a lock on ``folder`` that dies with this process, as a sign that it is in use."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _clear(place: Path, name: str) -> None:
    """Remove what rehearsals that were killed have left."""
    pattern = re.compile(re.escape(f".{name}.rehearsal-") + r"[0-9a-f]{8}")
    with suppress(OSError):
        for folder in place.iterdir():
            if pattern.fullmatch(folder.name) and _is_dead(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    try:
        age = time.time() - folder.lstat().st_mtime
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return age > _SURELY_DEAD
    finally:
        os.close(descriptor)
    return age > _SETTLED
