"""What a database will be at the point of a file of ``--sql`` that is being written.

There is nobody to ask, but what the file was to begin with is known: the structure of its
starting revision, which ``structure.json`` holds, and the statements so far.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any, TextIO

from alembic.util import CommandError

_VERSION_TABLE = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"


class Imagined:
    """Writes the statements on, and answers what SQLite would after them.

    Args:
        output: where the statements go.
        start: the revision that the database is at; None for base.
        known: the file with the structure of each revision.
    """

    def __init__(self, output: TextIO, start: str | None, known: Path) -> None:
        self._output = output
        self._start = start
        self._known = known
        self._written: list[str] = []
        self._database: sqlite3.Connection | None = None

    def write(self, text: str) -> int:
        """Write a part of the file."""
        self._written.append(text)
        return self._output.write(text)

    def flush(self) -> None:
        """Flush what was written."""
        self._output.flush()

    def ask(self, question: str, parameters: tuple[str, ...] = ()) -> list[Any]:
        """Answer ``question`` about a database that has all that was written."""
        if self._database is None:
            self._database = sqlite3.connect(":memory:", isolation_level=None)
            self._begin(self._database)
        self._database.executescript("".join(self._written))
        self._written.clear()
        return self._database.execute(question, parameters).fetchall()

    def close(self) -> None:
        """Forget the database."""
        if self._database is not None:
            self._database.close()

    def _begin(self, database: sqlite3.Connection) -> None:
        if self._start is None:
            return
        document = json.loads(self._known.read_text("utf-8"))
        if self._start not in document["revisions"]:
            raise CommandError(
                f"{self._known.name} does not know revision {self._start} yet: generate it anew."
            )
        database.execute(_VERSION_TABLE)
        for key in document["revisions"][self._start]:
            table = document["tables"][key]
            for statement in (table["sql"], *table["indexes"].values()):
                database.execute(statement)
