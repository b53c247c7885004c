"""A database that the program itself has brought to head."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.migrate.startup import prepare
from tests.support.shapes import at


def at_head(path: Path, *pragmas: str) -> None:
    """A file at head, with rows in every table that was in the field."""
    at("010", "portable").write(path)
    prepare(path)
    for made in backups.automatic_backups(path):
        backups.discard(made)
    with closing(sqlite3.connect(path)) as connection:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
