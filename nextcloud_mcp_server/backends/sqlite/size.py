"""How many bytes a copy or an upgrade of a database takes."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.filesystem.space import copy_needs

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
