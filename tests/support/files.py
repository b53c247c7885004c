"""Files on disk: the names in a folder, and a damaged page of a database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def names(folder: Path) -> set[str]:
    """Return the names of the files in a folder."""
    return {path.name for path in folder.iterdir()}


def root_page(path: Path, name: str) -> int:
    """Return the offset of the root page of a table or an index in the file."""
    with closing(sqlite3.connect(path)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
    return int(page - 1) * int(page_size)


def flip(path: Path, name: str) -> None:
    """Flip the bits of one byte in the root page of a table or an index."""
    raw = bytearray(path.read_bytes())
    raw[root_page(path, name) + 8] ^= 0xFF
    path.write_bytes(raw)
