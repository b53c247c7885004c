"""Migrated databases, each made once a run and copied for every test.

A template is one file: closed, so that no ``-wal`` holds a part of it, and in WAL mode, which
its header keeps, so that nobody who opens a copy has to switch. It is made under another name
and renamed, under a lock, so that the workers of pytest-xdist share one and a killed worker
leaves no half of one.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

from filelock import FileLock

from nextcloud_mcp_server.migrate.change import downgrade
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.schema.history import BASE

#: What the fixture ``token_db_at`` gives: the path of a new database at a revision.
TokenDbAt = Callable[[str], Path]

#: The word for the newest revision.
HEAD: Final = "head"


class Templates:
    """The templates of one run, in a folder that its workers share.

    Args:
        folder: where they lie; made when the first one is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def copy(self, revision: str, target: Path) -> Path:
        """Copy the template at ``revision`` (an id, ``head`` or ``base``) to ``target``.

        Raises:
            TokenStorageError: ``unknown-revision``.
        """
        # shutil.copy brings the mode along: it is its owner's alone.
        return Path(shutil.copy(self._made.get(revision) or self._find(revision), target))

    def _find(self, revision: str) -> Path:
        wanted = known_history().head if revision == HEAD else revision
        template = self._folder / f"{wanted}.db"
        if not template.is_file():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._folder / "templates.lock"
            with FileLock(lock, fallback_to_soft=False, preserve_lock_file=True):
                if not template.is_file():
                    _make(template, wanted)
        self._made[revision] = template
        return template


def _make(template: Path, revision: str) -> None:
    partial = template.with_name("partial") / template.name
    # Whatever lies there is of a worker that was killed: the lock is ours.
    shutil.rmtree(partial.parent, ignore_errors=True)
    partial.parent.mkdir(mode=0o700)
    if revision == BASE:
        prepare(partial, target=known_history().revisions[0])
        downgrade(partial, BASE)
    else:
        prepare(partial, target=revision)
    _settle(partial)
    partial.rename(template)
    shutil.rmtree(partial.parent)


def _settle(path: Path) -> None:
    """Put into the one file what lies beside it."""
    with closing(sqlite3.connect(path)) as connection:
        (busy, *_), *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if busy or path.with_name(f"{path.name}-wal").exists():
        raise AssertionError(f"{path} is in use by somebody else")
