"""Preview a restore: what would replace what. Changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.backup_files import NAME
from nextcloud_mcp_server.backends.sqlite.catalog import counts
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only, require_library
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.paths import absolute
from nextcloud_mcp_server.maintenance.backup_check import Backup, check_backup
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import Finding, State, refusal
from nextcloud_mcp_server.progress import Reporter, silent

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring


#: Codes of damage that an inspection can return.
DAMAGED: Final = frozenset({"corrupt", "not-a-database"})


@dataclass(frozen=True, slots=True)
class RestorePreview:
    """What a restore would do.

    Attributes:
        exists: whether there is a database file now.
        present: the state of that file.
        rows: the number of rows of each of its tables; None if they cannot be read.
    """

    database: Path
    backup: Backup
    exists: bool
    present: Finding
    rows: dict[str, int] | None
    head: str

    @property
    def is_behind(self) -> bool:
        """Whether the next start would upgrade what is restored."""
        return self.backup.finding.state is not State.AT_HEAD


def preview_restore(
    database: Path,
    backup: Path | Backup,
    keyring: Keyring | None = None,
    report: Reporter = silent,
) -> RestorePreview:
    """Check a backup and return what a restore of it would replace. Changes nothing.

    The database need not exist, or be readable. A :class:`Backup` is not checked again; in
    another, the keys are tried on every secret.

    Raises:
        TokenStorageError: ``bad-input`` if both are one file, or the database is a backup;
            ``foreign`` if the database belongs to another application; and as
            :func:`~nextcloud_mcp_server.maintenance.backup_check.check_backup`.
    """
    require_library()
    database = files.find_database(database)
    _refuse_itself(database, backup if isinstance(backup, Path) else backup.path)
    if isinstance(backup, Path):
        backup = absolute(backup)
        report("verifying the backup")
        backup = check_backup(backup, database, keyring)
    report("counting its rows")
    seen, rows = _inspect(database)
    history = known_history()
    present = classify(seen, history)
    if present.state is State.FOREIGN:
        raise refusal(present, history, SqliteDatabase(database))
    return RestorePreview(database, backup, database.exists(), present, rows, history.head)


def _refuse_itself(database: Path, backup: Path) -> None:
    try:
        same = database.samefile(backup)
    except OSError:
        same = False
    if same:
        what = f"{backup} is the database itself, so there is nothing to restore."
    elif NAME.search(database.name):
        what = f"{database} is a backup, and a restore would overwrite it."
    else:
        return
    raise TokenStorageError(
        what,
        code="bad-input",
        remedy="Give the backup as the argument, and the database with -d.",
    )


def _inspect(database: Path) -> tuple[Snapshot, dict[str, int] | None]:
    try:
        with readable(database) as (source, seen):
            return seen, _rows(source, seen)
    except TokenStorageError as error:
        # A restore must work if the database is too damaged to be recovered.
        if error.code not in DAMAGED:
            raise
        return Snapshot(damage=error.code, detail=error.message), None


def _rows(path: Path, seen: Snapshot) -> dict[str, int] | None:
    if seen.damage:
        return None
    if not seen.journal_mode:
        return {}
    try:
        with closing(connect_read_only(path)) as connection:
            return counts(connection.execute, seen.structure)
    except (sqlite3.Error, UnicodeDecodeError):
        return None
