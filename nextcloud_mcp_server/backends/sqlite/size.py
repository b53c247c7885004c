"""Calculate the bytes that a copy or an upgrade of a database needs."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.filesystem.space import copy_needs

#: Bytes beside each page in a -wal; a rollback journal needs less.
_FRAME: Final = 24


class Pages(NamedTuple):
    """The pages of a database, including those in its WAL."""

    number: int = 0
    size: int = 0

    @property
    def bytes(self) -> int:
        """The bytes of a copy of them."""
        return self.number * self.size


@dataclass(frozen=True, slots=True)
class Need:
    """The bytes that an upgrade needs beside a database.

    Attributes:
        backup: for its backup, before anything else; 0 if there are no rows.
        most: in total while it runs, if every page changes.
    """

    backup: int
    most: int


def pages_of(database: Path) -> Pages:
    """Return the pages of ``database``.

    Raises:
        TokenStorageError: the file cannot be read.
    """
    with naming(database), closing(connect_read_only(database)) as connection:
        (number,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return Pages(int(number), int(size))


def upgrade_needs(pages: Pages, growth: int = 0, *, backed_up: bool = True) -> Need:
    """Return the bytes that an upgrade of a database needs while it runs.

    Args:
        pages: of the database.
        growth: the bytes that it grows by, if a rehearsal measured it.
        backed_up: whether a backup is made.
    """
    backup = copy_needs(pages.bytes) if backed_up else 0
    # New pages are written twice: to the -wal, and from there to the file.
    journal = pages.bytes + pages.number * _FRAME + growth
    return Need(backup, backup + copy_needs(journal) + growth)
