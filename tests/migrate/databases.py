"""What the tests of a start ask a database, and do to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def versions(path: Path) -> list[str]:
    """The version rows of a file."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]


def sql(path: Path, *statements: str) -> None:
    """Execute statements as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
