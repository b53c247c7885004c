"""Whether there is room for a copy of a database, before one begins."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.faults import naming
from nextcloud_mcp_server.backends.sqlite.look import connect_read_only
from nextcloud_mcp_server.errors import TokenStorageError

#: Bytes beside the copy itself: its journal while it is made, its manifest, the lock files.
MARGIN: Final = 64 * 1024


def size_of(database: Path) -> int:
    """The bytes that a copy of ``database`` may need: its pages, and what is in its WAL."""
    with naming(database), closing(connect_read_only(database)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    try:
        waiting = database.with_name(database.name + "-wal").stat().st_size
    except OSError:
        waiting = 0
    return int(pages) * int(page_size) + waiting


def free_bytes(folder: Path) -> int | None:
    """The bytes that this user may still write in ``folder``; None where nobody can tell."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    if not disk.f_blocks:
        # Some network file systems and FUSE ones report nothing at all.
        return None
    # What is reserved for root is there for root only.
    return disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)


def require_space(folder: Path, needed: int, doing: str) -> None:
    """Insist on room for ``needed`` bytes, and a small margin, in ``folder``.

    Args:
        folder: where something is to be written.
        needed: bytes.
        doing: what for, as the message says it: "to back up tokens.db".

    Raises:
        TokenStorageError: ``disk-full``, with what is needed and what is there. Nothing
            was written.
    """
    free = free_bytes(folder)
    if free is None or free >= needed + MARGIN:
        return
    raise TokenStorageError(
        f"There is too little space in {folder} {doing}: "
        f"{readable(needed + MARGIN)} are needed and {readable(free)} are free.",
        code="disk-full",
        remedy="Free space there, then try again; nothing was written.",
    )


def readable(size: int) -> str:
    """A number of bytes for people: ``12.3 MB``, in powers of a thousand."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004 - the step between two units
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
