"""What each revision says to each engine, by asking it: Alembic's offline mode, no database."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Final, Literal

from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS, Dialect
from nextcloud_mcp_server.authoring.lint.rules import Problem, problem
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.alembic_commands import write_sql
from nextcloud_mcp_server.migrate.structures import Trial, there_and_back
from nextcloud_mcp_server.schema.history import History

Direction = Literal["upgrade", "downgrade"]

DIRECTIONS: Final[tuple[Direction, ...]] = ("upgrade", "downgrade")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, as it is sent.

    Attributes:
        sql: its text.
        line: the line of the revision that says it.
        helper: the function beside ``env.py`` that the revision called for it, which looks
            first what is there; empty where the revision says it itself.
    """

    sql: str
    line: int
    helper: str


@dataclass(frozen=True)
class Emitted:
    """What every revision says.

    Attributes:
        statements: by revision's file name, dialect and direction; what is not there has failed.
        problems: where a revision failed instead.
    """

    statements: Mapping[tuple[str, Dialect, Direction], tuple[Statement, ...]]
    problems: tuple[Problem, ...]


class _Listener(StringIO):
    """Keeps each statement with the line of the revision that is writing it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folders = (str(folder), str(folder / "versions"))
        self.heard: list[tuple[str, Statement]] = []

    def write(self, text: str) -> int:
        found = _speaker(sys._getframe(1), *self._folders)
        # The rest is Alembic's own: the transaction, the version row, its comments.
        if found is not None:
            name, line, helper = found
            sql = text.strip().removesuffix(";")
            self.heard.append((name, Statement(sql, line, helper)))
        return len(text)


def _speaker(frame: FrameType | None, folder: str, versions: str) -> tuple[str, int, str] | None:
    """The revision that ``frame`` runs in, its line, and the helper that it has called."""
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
def read_anew() -> Iterator[None]:
    """Compile every script that is run meanwhile from its source, and keep nothing.

    Python takes a compiled file for the source's where second and size are the same: a quick
    edit would not be seen. And the folder of an installation stays as it is.
    """
    before = (sys.pycache_prefix, sys.dont_write_bytecode)
    sys.pycache_prefix, sys.dont_write_bytecode = os.devnull, True
    try:
        yield
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = before


def emitted(history: History, files: Mapping[str, Path]) -> Emitted:
    """Ask every revision what it says, to each dialect, up and down.

    Args:
        history: the revisions, which are one line.
        files: the file of each, by id.
    """
    found: dict[tuple[str, Dialect, Direction], tuple[Statement, ...]] = {}
    problems: set[Problem] = set()
    for dialect in DIALECTS:
        for direction in DIRECTIONS:
            listener = _Listener(history.directory)
            down = direction == "downgrade"
            start, target = (history.head, None) if down else (None, history.head)
            broken = ""
            try:
                write_sql(
                    history,
                    start,
                    target,
                    listener,
                    dialect=dialect,
                    down=down,
                    reviewed=True,
                )
            except Exception as error:  # noqa: BLE001 - whatever a developer's file does is told
                failed = failure(error, history.directory)
                problems.add(failed)
                broken = failed.path.name
            for name in _before(files, broken, down=down):
                said = tuple(one for speaker, one in listener.heard if speaker == name)
                found[name, dialect, direction] = said
    return Emitted(found, tuple(sorted(problems)))


def _before(files: Mapping[str, Path], broken: str, *, down: bool) -> Iterator[str]:
    """The files that had their say before the one that failed."""
    names = [path.name for path in files.values()]
    for name in reversed(names) if down else names:
        if name == broken:
            return
        yield name


def failure(error: BaseException, folder: Path) -> Problem:
    """The problem that ``error`` is: at the line of the revision that it comes from."""
    cause: BaseException | None = error
    text = str(getattr(error, "orig", None) or error) or type(error).__name__
    while cause is not None:
        for place in reversed(traceback.extract_tb(cause.__traceback__)):
            path = Path(place.filename)
            if path.parent == folder / "versions":
                return problem("fails", path, place.lineno or 1, _sentence(text))
        cause = cause.__cause__
    return problem("fails", folder / "env.py", 1, _sentence(text))


def _sentence(text: str) -> str:
    return " ".join(text.split()).rstrip(".") + "."


def tried(history: History) -> tuple[Trial | None, Problem | None]:
    """What running and undoing each revision has shown; or where the first one fails."""
    try:
        shown = there_and_back(history)
    except TokenStorageError as error:
        return None, failure(error, history.directory)
    return shown, failure(shown.failure, history.directory) if shown.failure else None
