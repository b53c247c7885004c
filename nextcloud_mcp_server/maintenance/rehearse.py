"""Preview an upgrade or a downgrade: on a private copy, or as its statements."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite import backup
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.backends.sqlite.size import Need, Pages, pages_of, upgrade_needs
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.space import free_bytes, require_space
from nextcloud_mcp_server.filesystem.temporary import full, temporary_place
from nextcloud_mcp_server.migrate import change as changes
from nextcloud_mcp_server.migrate.inspect import Inspection, VerifyKeys, inspect
from nextcloud_mcp_server.migrate.plan import Plan
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.progress import ProgressCallback
from nextcloud_mcp_server.schema.history import BASE, History
from nextcloud_mcp_server.schema.structure import gaps

_DOING: Final = "to rehearse on a copy"

_NOTHING: Final = Need(0, 0)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What an upgrade would do and need, as its rehearsal showed.

    ``rows`` are those of the copy, and ``seconds`` is the time on it, with its backup. ``need``
    was measured on it; ``free`` are the bytes beside the database, None if unknown.
    """

    database: Path
    inspection: Inspection
    todo: Plan
    rows: int = 0
    seconds: float = 0.0
    need: Need = _NOTHING
    free: int | None = None


@dataclass(frozen=True, slots=True)
class DowngradeRehearsal:
    """What a downgrade would do and lose, as its rehearsal showed.

    ``target`` is a revision or ``base``; ``dropped`` has the rows of each table that has some and
    is dropped. ``rows`` and ``seconds`` are as in :class:`Rehearsal`.
    """

    database: Path
    inspection: Inspection
    target: str
    dropped: Mapping[str, int]
    rows: int
    seconds: float

    @property
    def steps(self) -> tuple[str, ...]:
        """The revisions that it undoes, newest first."""
        return self.inspection.history.undone(str(self.inspection.recorded), self.target)


@dataclass(frozen=True, slots=True)
class Script:
    """The statements of a change, for SQLite's shell; empty if there is nothing to do.

    They lead from ``start`` (None for a new database) to ``target``, or ``base``.
    """

    database: Path
    start: str | None
    target: str
    steps: tuple[str, ...]
    sql: str


def rehearse(
    database: Path,
    *,
    target: str | None = None,
    verify: VerifyKeys | None = None,
    progress: ProgressCallback | None = None,
) -> Rehearsal:
    """Run a complete upgrade on a copy that is deleted afterwards.

    The database is only read, and no file beside it changes. No lock is needed: the copy is
    of one moment even if other processes write. The database need not exist yet, the
    default of ``target`` is head, ``verify`` creates no key, and the default of ``progress``
    is the log.

    Raises:
        TokenStorageError: what the upgrade itself would raise; ``disk-full`` and
            ``read-only`` if there is no place for a copy.
    """
    place = SqliteDatabase(database)
    inspection, database = inspect(place, target), place.path
    todo = inspection.accepted()
    place.require_own_lock()
    free = free_bytes(_place_of_copy(database))
    if not todo.migrates:
        inspection.verify_keys(verify)
        return Rehearsal(database, inspection, todo, free=free)
    with _private_copy(database, inspection) as (copy, rows, before):
        outcome = prepare(SqliteDatabase(copy), target=target, verify=verify, progress=progress)
        growth = max(0, pages_of(copy).bytes - before.bytes)
    need = upgrade_needs(before, growth, backed_up=outcome.backup is not None)
    return Rehearsal(database, inspection, todo, sum(rows.values()), outcome.seconds, need, free)


def rehearse_downgrade(
    database: Path,
    revision: str | None = None,
    *,
    verify: VerifyKeys | None = None,
    progress: ProgressCallback | None = None,
) -> DowngradeRehearsal:
    """Run a complete downgrade on a copy that is deleted afterwards, as :func:`rehearse`.

    A server may be running. ``revision`` is as for :func:`changes.downgrade`.

    Raises:
        TokenStorageError: what the downgrade itself would raise, except ``in-use``.
    """
    place = SqliteDatabase(database)
    inspection, target = changes.plan_downgrade(place, revision)
    place.require_own_lock()
    with _private_copy(place.path, inspection) as (copy, rows, _):
        start = time.monotonic()
        changes.downgrade(SqliteDatabase(copy), target, verify=verify, progress=progress)
        seconds = time.monotonic() - start
        left = inspect(SqliteDatabase(copy)).snapshot.structure.tables
    known = inspection.history.shapes
    dropped = {t: n for t, n in sorted(rows.items()) if n and t in known and t not in left}
    total = sum(rows.values())
    return DowngradeRehearsal(place.path, inspection, target, dropped, total, seconds)


def script(database: Path, *, target: str | None = None) -> Script:
    """Return the statements that take ``database`` from its own revision to ``target``.

    Raises:
        TokenStorageError: as an upgrade; ``bad-input`` if the database must be stamped or
            repaired first, because that depends on more than the revision.
    """
    place = SqliteDatabase(database)
    inspection, database = inspect(place, target), place.path
    todo = inspection.accepted()
    if (reason := _no_statements_for(inspection, todo)) and todo.migrates:
        raise _no_statements(place, reason)
    sql = _statements(inspection.history, todo.start, todo.target) if todo.steps else ""
    return Script(database, todo.start, todo.target, todo.steps, sql)


def script_downgrade(database: Path, revision: str | None = None) -> Script:
    """Return the statements that take ``database`` back to ``revision``.

    Raises:
        TokenStorageError: as a downgrade, except ``in-use``; ``bad-input`` if the database
            must be repaired first.
    """
    place = SqliteDatabase(database)
    inspection, target = changes.plan_downgrade(place, revision)
    todo, history, recorded = inspection.accepted(), inspection.history, str(inspection.recorded)
    above = history.shapes.keys() - history.structure(recorded).tables.keys()
    there = sorted(above & inspection.snapshot.structure.tables.keys())
    reason = f"it has {', '.join(there)} already" if there else _to_repair(todo)
    if reason:
        raise _no_statements(place, reason)
    sql = _statements(history, recorded, target, down=True)
    return Script(place.path, recorded, target, history.undone(recorded, target), sql)


def _statements(history: History, start: str | None, target: str, *, down: bool = False) -> str:
    from nextcloud_mcp_server.migrate import alembic_commands  # noqa: PLC0415 - imports Alembic

    sql = StringIO()
    end = None if target == BASE else target
    alembic_commands.write_sql(history, start, end, sql, down=down)
    # The pragma has no effect inside a transaction. Without it, a table that is dropped and
    # created again would delete the rows that reference it.
    return f"PRAGMA foreign_keys=OFF;\n\n{sql.getvalue().strip()}\n"


def _no_statements(place: SqliteDatabase, reason: str) -> TokenStorageError:
    command = f"nextcloud-mcp-server db upgrade {place.option}"
    return TokenStorageError(
        f"There are no statements for {place}: {reason}.",
        code="bad-input",
        remedy=f"See what an upgrade does with '{command} --dry-run', then run: {command}",
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


def _place_of_copy(database: Path) -> Path:
    return database.parent if database.parent.is_dir() else temporary_place(_DOING)


@contextmanager
def _private_copy(
    database: Path, inspection: Inspection
) -> Iterator[tuple[Path, Mapping[str, int], Pages]]:
    """Yield a copy that is deleted at the end, the rows of each table, and its pages.

    An error of the body that names the copy is raised again about the database itself.
    """
    place = _place_of_copy(database)
    with _private_folder(place, database.name) as folder:
        copy = folder / database.name
        try:
            yield copy, *_copied(database, inspection, copy)
        except TokenStorageError as error:
            if error.code == "disk-full" and place != database.parent:
                raise full(place, _DOING) from error
            raise _as_of(database, copy, error) from error


def _copied(database: Path, inspection: Inspection, copy: Path) -> tuple[Mapping[str, int], Pages]:
    """Copy the database; return the number of rows in each table, and its pages."""
    files.create_private(copy)
    if not inspection.snapshot.journal_mode:
        return {}, Pages()
    with readable(database) as (source, _), naming(copy):
        # For the copy, its own backup, and the journal of its migration.
        require_space(copy.parent, 3 * pages_of(source).bytes, _DOING)
        made = backup.copy_with_summary(source, copy)
    return made.rows, pages_of(copy)


def _as_of(database: Path, copy: Path, error: TokenStorageError) -> TokenStorageError:
    """Return the same error about the database itself."""
    message, remedy = (
        text.replace(str(copy), str(database)).replace(str(copy.parent), str(database.parent))
        for text in (error.message, error.remedy)
    )
    return TokenStorageError(message, code=error.code, remedy=remedy)


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
