"""Copies of a damaged database as it is, where no verified backup of it can be made."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.size import size_of
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.space import require_space

_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"


def keep_aside(path: Path) -> Path:
    """Copy a database whose indexes are damaged, page by page and as it is; never pruned.

    Raises:
        TokenStorageError: ``disk-full``, ``io-error``; there is no copy then.
    """
    require_space(path.parent, size_of(path), f"to keep {path} as it is")
    with _published(path, [""]) as partial:
        with (
            closing(connect_read_only(path)) as reader,
            closing(sqlite3.connect(partial, isolation_level=None)) as writer,
        ):
            reader.backup(writer)
            # A copy is one file, whatever the journal mode of the database is.
            writer.execute("PRAGMA journal_mode=DELETE")
        return _target(partial)


def copy_files(path: Path) -> Path:
    """Copy the bytes of a crashed database and its journal; never pruned.

    Only under the lock, and where this process has no connection to it: closing a
    descriptor of the file would drop the connection's locks.

    Raises:
        TokenStorageError: as :func:`keep_aside`.
    """
    there = [s for s in ("", "-journal", "-wal") if Path(f"{path}{s}").exists()]
    needed = sum(Path(f"{path}{suffix}").stat().st_size for suffix in there)
    require_space(path.parent, needed, f"to keep {path} as it is")
    with _published(path, there) as partial:
        for suffix in there:
            shutil.copyfile(f"{path}{suffix}", f"{partial}{suffix}")
        return _target(partial)


@contextmanager
def _published(path: Path, suffixes: list[str]) -> Iterator[Path]:
    """A private file under a temporary name, which gets its own when the body has ended well."""
    moment = datetime.now(UTC).strftime(_STAMP)
    partial = path.with_name(f".{path.name}.damaged-{moment}.partial")
    target = _target(partial)
    with naming(target):
        try:
            for suffix in suffixes:
                files.create_private(Path(f"{partial}{suffix}"))
            yield partial
            # The file itself last: without it, what is beside it is of nobody.
            for suffix in reversed(suffixes):
                files.sync(Path(f"{partial}{suffix}"))
                Path(f"{partial}{suffix}").rename(f"{target}{suffix}")
            files.sync_folder(path.parent)
        finally:
            for suffix in (*suffixes, "-journal"):
                with suppress(OSError):
                    Path(f"{partial}{suffix}").unlink(missing_ok=True)


def _target(partial: Path) -> Path:
    return partial.with_name(partial.name.removeprefix(".").removesuffix(".partial"))
