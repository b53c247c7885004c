"""Collect the SQL of each revision for each engine, with Alembic's offline mode."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Final, Literal

from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS, Dialect
from nextcloud_mcp_server.authoring.lint.rules import Problem, problem
from nextcloud_mcp_server.migrate.alembic_commands import write_sql
from nextcloud_mcp_server.migrate.verify import one_line
from nextcloud_mcp_server.schema.history import History

Direction = Literal["upgrade", "downgrade"]

#: The longest part of a statement in a message, in characters.
_LONGEST: Final = 60

DIRECTIONS: Final[tuple[Direction, ...]] = ("upgrade", "downgrade")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, and the line of the revision that sends it.

    ``helper`` is the guard that sends it, which checks first what exists; empty if there is none.
    """

    sql: str
    line: int
    helper: str

    @property
    def excerpt(self) -> str:
        """The beginning of the SQL on one line, in quotes."""
        text = " ".join(self.sql.split())
        return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


@dataclass(frozen=True)
class Emitted:
    """The SQL of all revisions by file name, dialect and direction, and what failed instead."""

    statements: Mapping[tuple[str, Dialect, Direction], tuple[Statement, ...]]
    problems: tuple[Problem, ...]


class _Recorder(StringIO):
    """Records each statement with the line of the revision that sends it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folders = (str(folder), str(folder / "versions"))
        self.recorded: list[tuple[str, Statement]] = []

    def write(self, text: str) -> int:
        found = _caller(sys._getframe(1), *self._folders)
        # Alembic itself writes the rest: the transaction, the version row, comments.
        if found is not None:
            name, line, helper = found
            sql = text.strip().removesuffix(";")
            self.recorded.append((name, Statement(sql, line, helper)))
        return len(text)


def _caller(frame: FrameType | None, folder: str, versions: str) -> tuple[str, int, str] | None:
    """Return the revision that ``frame`` runs in, its line, and the guard it called."""
    helper = ""
    while frame is not None:
        place, name = os.path.split(frame.f_code.co_filename)
        if place == versions:
            return name, frame.f_lineno, helper
        if place == folder and name != "env.py":
            helper = frame.f_code.co_name
        frame = frame.f_back
    return None


@contextmanager
def without_bytecode() -> Iterator[None]:
    """Compile each script from its source, and write no bytecode.

    Python uses the cached bytecode if time (in seconds) and size of the source are unchanged,
    which would hide a quick edit. And an installed folder must not change.
    """
    before = (sys.pycache_prefix, sys.dont_write_bytecode)
    sys.pycache_prefix, sys.dont_write_bytecode = os.devnull, True
    try:
        yield
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = before


def emit_sql(history: History, files: Mapping[str, Path]) -> Emitted:
    """Run every revision offline, for each dialect, up and down; ``files`` are by id."""
    found: dict[tuple[str, Dialect, Direction], tuple[Statement, ...]] = {}
    problems: set[Problem] = set()
    names = [path.name for path in files.values()]
    for dialect in DIALECTS:
        for direction in DIRECTIONS:
            recorder = _Recorder(history.directory)
            down = direction == "downgrade"
            start, target = (history.head, None) if down else (None, history.head)
            broken = ""
            try:
                write_sql(
                    history, start, target, recorder, dialect=dialect, down=down, reviewed=True
                )
            except Exception as error:  # noqa: BLE001 - any error of a developer's file is reported
                failed = failure(error, history.directory)
                problems.add(failed)
                broken = failed.path.name
            ran = reversed(names) if down else names
            for name in takewhile(broken.__ne__, ran):
                sent = tuple(one for caller, one in recorder.recorded if caller == name)
                found[name, dialect, direction] = sent
    return Emitted(found, tuple(sorted(problems)))


def failure(error: BaseException, folder: Path) -> Problem:
    """Create the problem for ``error``, at the line of the revision that raised it."""
    cause: BaseException | None = error
    text = f"{one_line(error).rstrip('.')}."
    while cause is not None:
        for place in reversed(traceback.extract_tb(cause.__traceback__)):
            path = Path(place.filename)
            if path.parent == folder / "versions":
                return problem("fails", path, place.lineno or 1, text)
        cause = cause.__cause__
    return problem("fails", folder / "env.py", 1, text)
