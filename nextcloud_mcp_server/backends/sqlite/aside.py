"""Copies of a damaged database as it is, where no verified backup of it can be made."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.backends.sqlite.faults import naming
from nextcloud_mcp_server.backends.sqlite.look import connect_read_only
from nextcloud_mcp_server.backends.sqlite.space import require_space, size_of

_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"


def keep_aside(path: Path) -> Path:
    """Copy a database whose indexes are damaged, page by page and as it is; never pruned."""
    target = _aside(path)
    require_space(path.parent, size_of(path), f"to keep {path} as it is")
    files.create_private(target)
    with (
        naming(target),
        closing(connect_read_only(path)) as reader,
        closing(sqlite3.connect(target, isolation_level=None)) as writer,
    ):
        reader.backup(writer)
        writer.execute("PRAGMA journal_mode=DELETE")
    _sync(target)
    return target


def copy_files(path: Path) -> Path:
    """Copy the bytes of a crashed database and its journal.

    Only under the lock, and where this process has no connection to it: closing a
    descriptor of the file would drop the connection's locks.
    """
    target = _aside(path)
    beside = [(suffix, Path(f"{path}{suffix}")) for suffix in ("", "-journal", "-wal")]
    there = [(suffix, file) for suffix, file in beside if file.exists()]
    needed = sum(file.stat().st_size for _, file in there)
    require_space(path.parent, needed, f"to keep {path} as it is")
    for suffix, file in there:
        copy = Path(f"{target}{suffix}")
        with naming(copy):
            files.create_private(copy)
            shutil.copyfile(file, copy)
        _sync(copy)
    return target


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged-{datetime.now(UTC).strftime(_STAMP)}")


def _sync(path: Path) -> None:
    with naming(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        files.sync_folder(path.parent)
