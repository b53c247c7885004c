"""Calculate the space for a copy of a database, and check that it is free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError

#: Bytes beside the copy itself: its temporary journal, its manifest, the lock files.
MARGIN: Final = 64 * 1024


def copy_needs(size: int) -> int:
    """Return the bytes for a copy of ``size`` bytes and the files beside it."""
    return size + MARGIN


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that this user can still write in ``folder``; None if unknown."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    if not disk.f_blocks:
        # Some network and FUSE file systems report nothing.
        return None
    # Only root can use the reserved blocks.
    return disk.f_frsize * (disk.f_bavail if os.geteuid() else disk.f_bfree)


def require_space(folder: Path, needed: int, doing: str) -> None:
    """Fail if ``folder`` has no space for ``needed`` bytes and a small margin.

    ``doing`` is the purpose, for the message: "to back up tokens.db".

    Raises:
        TokenStorageError: ``disk-full``, with the needed and the free bytes.
    """
    free = free_bytes(folder)
    if free is None or free >= copy_needs(needed):
        return
    raise TokenStorageError(
        f"There is too little space in {folder} {doing}: "
        f"{readable(copy_needs(needed))} are needed and {readable(free)} are free.",
        code="disk-full",
        remedy="Free space there, then try again; nothing was written.",
    )


def readable(size: int) -> str:
    """Format a number of bytes: ``12.3 MB``, in powers of a thousand."""
    amount = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004 - the step between two units
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
