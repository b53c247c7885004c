"""Preview an upgrade: rehearse it on a private copy, or write its statements."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
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
from nextcloud_mcp_server.migrate.inspect import Inspection, VerifyKeys, inspect
from nextcloud_mcp_server.migrate.plan import Plan
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.progress import ProgressCallback
from nextcloud_mcp_server.schema.structure import gaps

_DOING: Final = "to rehearse on a copy"

_NOTHING: Final = Need(0, 0)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What an upgrade would do and need, as its rehearsal showed.

    Attributes:
        rows: the number of rows in the copy.
        seconds: how long it took on the copy, including its backup.
        need: bytes that it needs beside the database, measured on the copy.
        free: bytes that are free there; None if unknown.
    """

    database: Path
    inspection: Inspection
    todo: Plan
    rows: int = 0
    seconds: float = 0.0
    need: Need = _NOTHING
    free: int | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """The statements of an upgrade, for SQLite's shell; empty if there is nothing to do."""

    database: Path
    todo: Plan
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
    place_of_copy = database.parent
    if not place_of_copy.is_dir():
        place_of_copy = temporary_place(_DOING)
    free = free_bytes(place_of_copy)
    if not todo.migrates:
        inspection.verify_keys(verify)
        return Rehearsal(database, inspection, todo, free=free)
    with _private_folder(place_of_copy, database.name) as folder:
        copy = folder / database.name
        try:
            rows, before = _copied(database, inspection, copy)
            outcome = prepare(SqliteDatabase(copy), target=target, verify=verify, progress=progress)
        except TokenStorageError as error:
            if error.code == "disk-full" and place_of_copy != database.parent:
                raise full(place_of_copy, _DOING) from error
            raise _as_of(database, copy, error) from error
        growth = max(0, pages_of(copy).bytes - before.bytes)
        need = upgrade_needs(before, growth, backed_up=outcome.backup is not None)
    return Rehearsal(database, inspection, todo, rows, outcome.seconds, need, free)


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
        command = f"nextcloud-mcp-server db upgrade {place.option}"
        raise TokenStorageError(
            f"There are no statements for {database}: {reason}.",
            code="bad-input",
            remedy=f"See what an upgrade does with '{command} --dry-run', then run: {command}",
        )
    if not todo.steps:
        return Script(database, todo, "")
    from nextcloud_mcp_server.migrate import alembic_commands  # noqa: PLC0415 - imports Alembic

    sql = StringIO()
    alembic_commands.write_sql(inspection.history, todo.start, todo.target, sql)
    # The pragma has no effect inside a transaction. Without it, a table that is dropped and
    # created again would delete the rows that reference it.
    return Script(database, todo, f"PRAGMA foreign_keys=OFF;\n\n{sql.getvalue().strip()}\n")


def _no_statements_for(inspection: Inspection, todo: Plan) -> str:
    """Return why a revision alone does not determine the statements; empty if it does."""
    if todo.stamp:
        return f"its version table has to be put in order first (it counts as {todo.stamp})"
    if todo.mends:
        return f"it has to be repaired first ({', '.join(todo.mends)})"
    if not todo.start or not inspection.exists:
        return ""
    history, there = inspection.history, inspection.snapshot.structure.tables
    later = gaps(history.structure(todo.start), history.structure(todo.target)).columns
    early = [f"{t}.{c}" for t, c in later if t in there and c in there[t].columns]
    return f"{', '.join(early)} is there already" if early else ""


def _copied(database: Path, inspection: Inspection, copy: Path) -> tuple[int, Pages]:
    """Copy the database; return the number of its rows, and its pages."""
    files.create_private(copy)
    if not inspection.snapshot.journal_mode:
        return 0, Pages()
    with readable(database) as (source, _), naming(copy):
        # For the copy, its own backup, and the journal of its migration.
        require_space(copy.parent, 3 * pages_of(source).bytes, _DOING)
        made = backup.copy_with_summary(source, copy)
    return sum(made.rows.values()), pages_of(copy)


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
