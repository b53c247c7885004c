"""Preview an upgrade or a downgrade: on a private copy, or as its statements."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

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

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring

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

    ``target`` is a revision or ``base``; ``change`` was made on the copy; ``dropped`` has the
    rows of each table that has some and is dropped. ``rows`` and ``seconds`` are as in
    :class:`Rehearsal`.
    """

    database: Path
    inspection: Inspection
    target: str
    change: changes.Change
    dropped: Mapping[str, int]
    rows: int
    seconds: float

    @property
    def steps(self) -> tuple[str, ...]:
        """The revisions that it undoes, newest first."""
        return self.inspection.history.undone(str(self.inspection.recorded), self.target)


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
    keyring: Keyring | None = None,
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
        change = changes.downgrade(
            SqliteDatabase(copy), target, verify=verify, keyring=keyring, progress=progress
        )
        seconds = time.monotonic() - start
        left = inspect(SqliteDatabase(copy)).snapshot.structure.tables
    known = inspection.history.shapes
    dropped = {t: n for t, n in sorted(rows.items()) if n and t in known and t not in left}
    total = sum(rows.values())
    return DowngradeRehearsal(place.path, inspection, target, change, dropped, total, seconds)


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
