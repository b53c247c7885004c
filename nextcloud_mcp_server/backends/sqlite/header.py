"""Read the header of a database file that this process may have open."""

from __future__ import annotations

import os
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.connect import connect_to_pages

_DATABASE_MAGIC: Final = b"SQLite format 3\0"

#: The open files of this process.
_DESCRIPTORS: Final = "/dev/fd"

#: Bytes of the header.
HEADER: Final = 100

#: Where page 1 has the mark of its database (``PRAGMA user_version``).
MARK: Final = 60


def header_of(path: Path) -> bytes:
    """Read the header of a database; empty if it has none.

    It is read from SQLite's own descriptor: closing another one would drop the locks that
    this process has on the file.
    """
    with closing(connect_to_pages(path)):
        wanted = os.stat(path)  # noqa: PTH116
        for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - faster than a Path
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(name)), wanted):
                    header = os.pread(int(name), HEADER, 0)
                    valid = len(header) == HEADER and header.startswith(_DATABASE_MAGIC)
                    return header if valid else b""
    return b""


def stated_size(header: bytes) -> int:
    """Return the bytes that a database has by its own header; a number that none has without one.

    An old writer leaves no number of pages: then 0.
    """
    if not header:
        return sys.maxsize
    page_size = int.from_bytes(header[16:18], "big")
    # 65,536 does not fit.
    return int.from_bytes(header[28:32], "big") * (65_536 if page_size == 1 else page_size)


def mark_of(header: bytes) -> int:
    """Return the mark of a database (``PRAGMA user_version``) in its header."""
    return int.from_bytes(header[MARK : MARK + 4], "big", signed=True)
