"""What a restore would replace by what, for somebody to agree to. Nothing changes here."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.catalog import counts
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.inspect import HotJournalError, look, recovered_copy
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.maintenance.backup_check import NAME, Backup, vet
from nextcloud_mcp_server.migrate.classify import GRANTS, classify
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import Finding, State, refusal
from nextcloud_mcp_server.progress import Reporter, silent

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring


#: Codes of damage that a look may find.
DAMAGED: Final = frozenset({"corrupt", "not-a-database"})


@dataclass(frozen=True, slots=True)
class Offer:
    """What a restore would do.

    Attributes:
        database: the database file.
        backup: what would be restored.
        exists: whether there is a database file now.
        present: what that is.
        rows: the number of rows of each of its tables; None where they cannot be read.
        head: the newest revision of this program.
    """

    database: Path
    backup: Backup
    exists: bool
    present: Finding
    rows: dict[str, int] | None
    head: str

    @property
    def grants(self) -> int | None:
        """How many refresh tokens are in the database now; None where nobody can tell."""
        return None if self.rows is None else self.rows.get(GRANTS, 0)

    @property
    def is_behind(self) -> bool:
        """Whether the next start would upgrade what is restored."""
        return self.backup.finding.state is not State.AT_HEAD


def weigh(
    database: Path, backup: Path | Backup, keyring: Keyring | None = None, say: Reporter = silent
) -> Offer:
    """Verify a backup and say what restoring it would replace by what. Changes nothing.

    Args:
        database: the database file; it need not be there, or be readable.
        backup: the file to restore, or what reading it as a whole has found.
        keyring: the keys at hand, to try on every secret in the backup.
        say: is told what is being read.

    Raises:
        TokenStorageError: ``bad-input`` where one is the other or the database is a backup
            itself; ``foreign`` where another application's would be replaced; and as
            :func:`~nextcloud_mcp_server.maintenance.backup_check.vet`.
    """
    files.check_path(database)
    database = files.follow(database)
    _refuse_itself(database, backup if isinstance(backup, Path) else backup.path)
    if isinstance(backup, Path):
        say("verifying the backup")
        backup = vet(backup, database, keyring)
    say("counting its rows")
    seen, rows = _look(database)
    history = known_history()
    present = classify(seen, history)
    if present.state is State.FOREIGN:
        raise refusal(present, history, database)
    return Offer(database, backup, database.exists(), present, rows, history.head)


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


def _look(database: Path) -> tuple[Snapshot, dict[str, int] | None]:
    try:
        try:
            seen = look(database)
            return seen, _rows(database, seen)
        except HotJournalError:
            with recovered_copy(database) as copy:
                seen = look(copy)
                return seen, _rows(copy, seen)
    except TokenStorageError as error:
        # What is too damaged to be recovered is what a restore is for.
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
