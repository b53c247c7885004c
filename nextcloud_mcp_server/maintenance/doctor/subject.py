"""The database under examination: looked at once, then asked by every check."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import HotJournalError, look, recovered_copy
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files, permissions
from nextcloud_mcp_server.filesystem.permissions import user_name
from nextcloud_mcp_server.maintenance.corrections import Amends, amends
from nextcloud_mcp_server.maintenance.doctor.finding import AS_OWNER
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import Finding
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.settings import Settings


@dataclass(frozen=True, slots=True)
class Opened:
    """A database that could be looked at.

    Attributes:
        history: the revisions of this program.
        seen: what the look has seen.
        finding: the state that this is.
        amends: what would make a refused state one that a start serves.
        crashed: whether a crashed writer's journal has yet to be rolled back.
        source: what to read: the database, or a recovered copy of a crashed one.
    """

    history: History
    seen: Snapshot
    finding: Finding
    amends: Amends | None
    crashed: bool
    source: Path

    @property
    def readable(self) -> bool:
        """Whether there are tables that can be asked."""
        return not self.seen.damage and bool(self.seen.journal_mode)

    def rows(self, sql: str) -> Sequence[Sequence[Any]]:
        """What a query finds, on a connection of its own that changes nothing.

        Raises:
            TokenStorageError: what is wrong with the file, in this program's words.
        """
        with naming(self.source), closing(connect_read_only(self.source)) as connection:
            return connection.execute(sql).fetchall()

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that changes nothing, for several queries."""
        with naming(self.source), closing(connect_read_only(self.source)) as connection:
            yield connection


@dataclass(frozen=True, slots=True)
class Subject:
    """What the checks look at.

    Attributes:
        settings: which database, and which keys.
        path: the database file itself.
        full: whether every page and index entry is checked, however long it takes.
        opened: what the look has found; None where nothing could be looked at.
        trouble: why nothing could be looked at.
    """

    settings: Settings
    path: Path
    full: bool = False
    opened: Opened | None = None
    trouble: TokenStorageError | None = None

    @property
    def unread(self) -> str:
        """Why what is in the database was not looked at; empty where it was, or is not there."""
        if self.trouble:
            return "the database cannot be looked at (see file)"
        if self.opened is not None and self.opened.seen.damage:
            return "the database cannot be read (see state)"
        return ""

    @property
    def closed(self) -> str:
        """Why a start can neither make the database nor change it; empty where it can."""
        return permissions.unmakeable(self.path.parent) or permissions.unwritable(self.path)

    def beside(self, ending: str) -> Path:
        """The file beside the database that is named after it."""
        return self.path.with_name(self.path.name + ending)

    def command(self, words: str) -> str:
        """``nextcloud-mcp-server db WORDS`` for this database."""
        return f"nextcloud-mcp-server db {words} -d {for_shell(self.path)}"

    def as_owner_of(self, file: Path) -> str | None:
        """The command that examines it as the user whose ``file`` is closed to this one."""
        owner = _owner(file)
        if os.geteuid() in {0, owner}:
            return None
        name = user_name(owner)
        user = f"'#{name}'" if name.isdecimal() else for_shell(Path(name))
        return f"{AS_OWNER} -u {user} {self.command('doctor')}"


def _owner(file: Path) -> int:
    """The user of ``file``, or of the folder that hides it; root where nobody can tell."""
    for place in (file, *file.parents):
        try:
            return place.lstat().st_uid
        except OSError:
            continue
    return 0


@contextmanager
def examined(settings: Settings, *, full: bool = False) -> Iterator[Subject]:
    """Look at the database that ``settings`` name. Nothing changes, and nothing is raised.

    What keeps it from being looked at is the subject's ``trouble``.
    """
    path = settings.database
    try:
        files.check_path(path)
        path = files.follow(path)
        history = known_history()
        seen = look(path)
    except HotJournalError:
        with _recovered(settings, path, full) as subject:
            yield subject
        return
    except TokenStorageError as error:
        yield Subject(settings, path, full, trouble=error)
        return
    yield Subject(settings, path, full, _opened(history, seen, path, crashed=False))


@contextmanager
def _recovered(settings: Settings, path: Path, full: bool) -> Iterator[Subject]:
    history = known_history()
    with ExitStack() as stack:
        try:
            copy = stack.enter_context(recovered_copy(path))
            seen = look(copy)
        except TokenStorageError as error:
            yield Subject(settings, path, full, trouble=error)
            return
        yield Subject(settings, path, full, _opened(history, seen, copy, crashed=True))


def _opened(history: History, seen: Snapshot, source: Path, *, crashed: bool) -> Opened:
    finding = classify(seen, history)
    return Opened(history, seen, finding, amends(seen, history), crashed, source)
