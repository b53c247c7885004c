"""Migrated databases, each created once in a run and copied for every test.

A template is one closed file in WAL mode. It is created under another name and renamed, under a
lock: the workers of pytest-xdist share it, and a killed worker leaves no incomplete one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.filesystem.files import NEW
from nextcloud_mcp_server.filesystem.flock import Hold, open_lock
from nextcloud_mcp_server.migrate.change import downgrade
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.schema.history import BASE

#: What the fixture ``token_db_at`` gives: the path of a new database at a revision.
TokenDbAt = Callable[[str], Path]

HEAD: Final = "head"


class Templates:
    """The templates of one run, in a folder that its workers share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def copy(self, revision: str, target: Path) -> Path:
        """Copy the template at ``revision`` (an id, ``head`` or ``base``) to ``target``.

        Raises:
            TokenStorageError: ``unknown-revision``.
        """
        template = self._made.get(revision) or self._find(revision)
        # Private from the first byte; shutil.copy sets the mode at the end.
        with (
            template.open("rb") as source,
            open(os.open(target, NEW, 0o600), "wb") as copy,  # noqa: PTH123 - a descriptor
        ):
            shutil.copyfileobj(source, copy)
        return target

    def _find(self, revision: str) -> Path:
        wanted = known_history().head if revision == HEAD else revision
        template = self._folder / f"{wanted}.db"
        if not template.is_file():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = Hold(open_lock(self._folder / "templates.lock", os.O_CREAT))
            try:
                fcntl.flock(lock.descriptor, fcntl.LOCK_EX)
                if not template.is_file():
                    _make(template, wanted)
            finally:
                lock.release()
        self._made[revision] = template
        return template


def _make(template: Path, revision: str) -> None:
    partial = template.with_name("partial") / template.name
    # Only a killed worker leaves this folder: the lock is held.
    shutil.rmtree(partial.parent, ignore_errors=True)
    partial.parent.mkdir(mode=0o700)
    first = known_history().revisions[0]
    prepare(SqliteDatabase(partial), target=first if revision == BASE else revision)
    if revision == BASE:
        downgrade(SqliteDatabase(partial), BASE)
    # Without this a copy would need the -wal.
    with closing(sqlite3.Connection(partial)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    partial.rename(template)
    shutil.rmtree(partial.parent)
