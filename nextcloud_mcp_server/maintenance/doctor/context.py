"""The database under examination: inspected once, then used by every check."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.backends.sqlite.integrity import Checked, check_file
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files, permissions
from nextcloud_mcp_server.maintenance.backups import newest_backup
from nextcloud_mcp_server.maintenance.corrections import corrected_state
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.indexes import only_indexes
from nextcloud_mcp_server.migrate import plan
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Contents:
    """A database that was inspected.

    Attributes:
        corrected: its state after a repair; None if a start accepts the database, or would
            refuse it then too.
        crashed: whether the journal of a crashed writer must be rolled back.
        source: the file to read: the database, or a recovered copy of a crashed one.
    """

    history: History
    seen: Snapshot
    finding: plan.Finding
    corrected: plan.Finding | None
    crashed: bool
    source: Path

    @property
    def readable(self) -> bool:
        """Whether there are tables that can be read."""
        return not self.seen.damage and bool(self.seen.journal_mode)

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """Open a connection that changes nothing."""
        with naming(self.source), closing(connect_read_only(self.source)) as connection:
            yield connection


@dataclass(frozen=True)
class Context:
    """What the checks examine: ``path`` is the target of the database's name if that is a link.

    With ``full`` every index entry and every backup is checked, however long it takes. There
    are ``contents``, or an ``error`` that says why the database cannot be inspected.
    """

    settings: Settings
    path: Path
    full: bool = False
    contents: Contents | None = None
    error: TokenStorageError | None = None

    @cached_property
    def checked(self) -> Checked:
        """The damage that SQLite finds in the pages, and what it cannot check."""
        if self.contents is None or not self.contents.readable:
            return Checked()
        try:
            return check_file(self.contents.source, self.pragma)
        except TokenStorageError as error:
            return Checked(unchecked=(error.message,))

    @property
    def pragma(self) -> str:
        """The check of the pages."""
        return "integrity_check" if self.full else "quick_check"

    @cached_property
    def only_indexes(self) -> bool:
        """Whether only indexes are damaged."""
        return self.contents is not None and only_indexes(self.contents.source)

    @property
    def tables(self) -> Contents | None:
        """The contents, if there are tables of this program to read; else None."""
        readable = self.contents is not None and self.contents.readable
        return self.contents if readable and self.is_ours else None

    @property
    def intact(self) -> Contents | None:
        """The same, if all their rows can be read."""
        return None if self.rows_unread else self.tables

    @property
    def unread(self) -> str:
        """Why the database was not read; empty if it was, or if there is none."""
        if self.error:
            return "the database cannot be opened (see file)"
        if self.contents is not None and self.contents.seen.damage:
            return "the database cannot be read (see state)"
        return ""

    @property
    def rows_unread(self) -> str:
        """Why some rows may not have been read; empty if all were."""
        if self.checked.damage:
            return "damaged pages can hide rows (see integrity)"
        return self.unread

    @property
    def closed(self) -> str:
        """Why a start can neither create the database nor change it; empty if it can."""
        return permissions.unmakeable(self.path.parent) or permissions.unwritable(self.path)

    @property
    def is_ours(self) -> bool:
        """Whether the database belongs to this program, or does not exist yet."""
        return self.contents is not None and not self.is_foreign

    @property
    def is_foreign(self) -> bool:
        """Whether the file is not a database of this program, so that no start changes it."""
        foreign = {State.FOREIGN, State.NOT_A_DATABASE}
        return self.contents is not None and self.contents.finding.state in foreign

    @property
    def database(self) -> SqliteDatabase:
        """The database, for the texts of plans and refusals."""
        return SqliteDatabase(self.path)

    def beside(self, ending: str) -> Path:
        """Return the file beside the database that has its name and this ending."""
        return self.path.with_name(self.path.name + ending)

    def command(self, name: str) -> str | None:
        """Return the ``db`` command for this database; None if it would be refused.

        Beside a backup of a database that is gone, none that creates an empty one is returned.
        A backup that cannot be made beside the database goes into another folder, DIR.
        """
        if not self.is_ours or self._refuses(name):
            return None
        new = self.contents is not None and self.contents.finding.state is State.NEW
        if name == "upgrade" and new and self.database.former():
            return None
        if name == "backup" and permissions.closed_to_new_files(self.path.parent):
            name = f"backup DIR/{for_shell(self.path.name)}"
        return f"nextcloud-mcp-server db {name} -d {for_shell(self.path)}"

    def restorable(self, message: str) -> Finding:
        """Return a finding of damage that ``db restore`` fixes; without a backup, what remains."""
        command = self.command("restore --newest")
        if command or not self.is_ours:
            return Finding(Level.ERROR, message, command)
        place, saved = for_shell(self.path), for_shell(self.beside(".recovered"))
        return Finding(
            Level.ERROR,
            f"{message}; there is no intact backup beside it to restore: with every server "
            "stopped, save what can still be read into a new file, and examine that: "
            f"nextcloud-mcp-server db doctor -d {saved}",
            f'(umask 077; sqlite3 {place} ".recover" | sqlite3 {saved})',
        )

    def _refuses(self, name: str) -> bool:
        if name == "repair":
            contents = self.contents
            if contents is None or (contents.finding.refused and contents.corrected is None):
                return True
            if permissions.unwritable(self.path):
                return True
            return bool(self.checked.damage) and not self.only_indexes
        if name == "restore --newest":
            with suppress(TokenStorageError):
                newest_backup(self.path)
                return False
            return True
        # backup and upgrade
        return bool(self.checked.damage) or (name == "upgrade" and bool(self.closed))

    def repairable(self, level: Level, message: str) -> Finding:
        """Return a finding that ``db repair`` fixes, unless it would be refused."""
        command = self.command("repair")
        return Finding(level, message, command, fixable=command is not None)


@contextmanager
def open_context(settings: Settings, *, full: bool = False) -> Iterator[Context]:
    """Inspect the database that ``settings`` name. Changes nothing and raises nothing.

    If it cannot be inspected, the context has the ``error``.
    """
    path = settings.file
    with ExitStack() as stack:
        try:
            path = files.find_database(path)
            history = known_history()
            source, seen = stack.enter_context(readable(path))
        except TokenStorageError as error:
            context = Context(settings, path, full, error=error)
        else:
            finding, corrected = classify(seen, history), corrected_state(seen, history)
            contents = Contents(history, seen, finding, corrected, source != path, source)
            context = Context(settings, path, full, contents)
        yield context
