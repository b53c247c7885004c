"""Copies of a damaged database as it is, if no verified backup of it can be made."""

from __future__ import annotations

import shutil
import stat
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite.backup import copy_to_file
from nextcloud_mcp_server.backends.sqlite.backup_files import TIMESTAMP
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.size import pages_of
from nextcloud_mcp_server.filesystem.files import private_file, publish
from nextcloud_mcp_server.filesystem.space import require_space


def damaged_path(database: Path) -> Path:
    """Return the name of a new copy: ``tokens.db.damaged-<UTC time>``."""
    moment = datetime.now(UTC).strftime(TIMESTAMP)
    return database.with_name(f"{database.name}.damaged-{moment}")


def copy_pages(database: Path) -> Path:
    """Copy a database with damaged indexes page by page; the copy is never pruned.

    Raises:
        TokenStorageError: ``disk-full``, ``io-error``; there is no copy then.
    """
    require_space(database.parent, pages_of(database).bytes, f"to keep {database} as it is")
    target = damaged_path(database)
    with naming(target), private_file(target, database) as partial:
        with closing(connect_read_only(database)) as reader:
            copy_to_file(reader, partial, "keeping it as it is")
        publish(partial, target)
    return target


def is_irregular(path: Path) -> bool:
    """Return whether there is something other than a regular file, such as a link."""
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def copy_files(database: Path) -> Path:
    """Copy the bytes of a crashed database and its journal; the copy is never pruned.

    Only under the lock, and if this process has no connection to the database: closing a
    descriptor of the file drops the connection's locks.

    Raises:
        TokenStorageError: as :func:`copy_pages`.
    """
    # The database comes last: without it, its journal belongs to no file.
    paths = [Path(f"{database}{suffix}") for suffix in ("-wal", "-journal", "")]
    # What is no file has no bytes of this database: it is moved away as it is.
    sources = [path for path in paths if path.exists() and not is_irregular(path)]
    needed = sum(source.stat().st_size for source in sources)
    require_space(database.parent, needed, f"to keep {database} as it is")
    target = damaged_path(database)
    with naming(target), ExitStack() as stack:
        copies = []
        for source in sources:
            copy = Path(f"{target}{source.name.removeprefix(database.name)}")
            partial = stack.enter_context(private_file(copy, database))
            shutil.copyfile(source, partial)
            copies.append((partial, copy))
        for partial, copy in copies:
            publish(partial, copy)
    return target
