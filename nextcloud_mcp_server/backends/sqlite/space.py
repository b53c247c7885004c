"""How many bytes a copy or an upgrade of a database takes, and whether there is room for them.

Whoever states such a figure takes it from here, so that all of them state the same.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite.faults import naming
from nextcloud_mcp_server.backends.sqlite.look import connect_read_only
from nextcloud_mcp_server.errors import TokenStorageError

#: Bytes beside the copy itself: its journal while it is made, its manifest, the lock files.
MARGIN: Final = 64 * 1024


#: What SQLite writes beside each page into a -wal; into a rollback journal it is less.
_FRAME: Final = 24


class Pages(NamedTuple):
    """The pages of a database, those in its WAL included."""

    number: int = 0
    size: int = 0

    @property
    def bytes(self) -> int:
        """What a copy of them takes."""
        return self.number * self.size


@dataclass(frozen=True, slots=True)
class Need:
    """The bytes that an upgrade takes beside a database.

    Attributes:
        backup: for its backup, without which it does not begin; 0 where there are no rows.
        most: in all while it runs, if every page changes.
    """

    backup: int
    most: int


def pages_of(database: Path) -> Pages:
    """The pages of ``database``.

    Raises:
        TokenStorageError: what is wrong with the file.
    """
    with naming(database), closing(connect_read_only(database)) as connection:
        (number,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return Pages(int(number), int(size))


def size_of(database: Path) -> int:
    """The bytes of a copy of ``database``."""
    return pages_of(database).bytes


def copy_needs(size: int) -> int:
    """The bytes that a copy of ``size`` bytes takes, with all that is made beside it."""
    return size + MARGIN


def upgrade_needs(pages: Pages, growth: int = 0, *, backed_up: bool = True) -> Need:
    """The bytes that an upgrade of a database of ``pages`` takes while it runs.

    Args:
        pages: of the database.
        growth: the bytes that it grows by, where somebody has tried it.
        backed_up: whether a backup is made.
    """
    backup = copy_needs(pages.bytes) if backed_up else 0
    # What is new is written twice: to the -wal, and from there to the file.
    journal = pages.bytes + pages.number * _FRAME + growth
    return Need(backup, backup + copy_needs(journal) + growth)


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
