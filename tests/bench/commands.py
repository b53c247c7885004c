"""Complete processes: ``db current`` and ``db --help``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench.harness import Pairs, Row
from tests.bench.place import Place, processes

#: The command beside the interpreter.
PROGRAM: Final = str(Path(sys.executable).with_name("nextcloud-mcp-server"))

READ: Final = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
print(*connection.execute("SELECT version_num FROM alembic_version").fetchone())
"""


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of the commands."""
    yield current(place, place.scale.rows[1]).judged(
        "`db current`, the whole process",
        '`python -c "import sqlite3"` that reads the version row',
        3,
    )
    base = [sys.executable, "-c", "import click"]
    ours = [PROGRAM, "db", "--help"]
    pairs = processes(base, ours, place.scale)
    yield pairs.judged("`db --help`, the whole process", '`python -c "import click"`', 1.5)


def current(place: Place, rows: int) -> Pairs:
    """Measure ``db current`` on a database with ``rows`` rows, and the same read with sqlite3."""
    path = str(place.database("current", rows))
    base = [sys.executable, "-c", READ, path]
    ours = [PROGRAM, "db", "current", "-d", path]
    return processes(base, ours, place.scale)
