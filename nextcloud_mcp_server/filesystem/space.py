"""How many bytes a copy or an upgrade of a database takes, and whether there is room for them.

Whoever states such a figure takes it from here, so that all of them state the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError

#: Bytes beside the copy itself: its journal while it is made, its manifest, the lock files.
MARGIN: Final = 64 * 1024


def copy_needs(size: int) -> int:
    """The bytes that a copy of ``size`` bytes takes, with all that is made beside it."""
    return size + MARGIN


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
    if free is None or free >= copy_needs(needed):
        return
    raise TokenStorageError(
        f"There is too little space in {folder} {doing}: "
        f"{readable(copy_needs(needed))} are needed and {readable(free)} are free.",
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
