"""A test case: how a file is created, and the expected result of a start."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.contents import KEY
from tests.support.facts import HEAD
from tests.support.invariants import Secrets
from tests.support.shapes import Shape

Write = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A file and the expected result of a start.

    Attributes:
        name: the id of the test.
        action: the expected action: ``create``, ``none``, ``repair@NNN``,
            ``upgrade:NNN->head``, ``resume:NNN->head``, ``repair->NNN->head``,
            ``stamp:NNN->head``, ``repair->stamp:NNN->head`` or ``refuse:CODE``.
        write: creates the file.
        adopted: tables whose rows are in another table afterwards, by their old name.
        tidied: whether the version table is rewritten although its version is known.
        key: the Fernet key of its secrets.
        secrets: secrets of the corpus that must be readable.
    """

    name: str
    action: str
    write: Write
    adopted: Mapping[str, str] = field(default_factory=dict)
    tidied: bool = False
    key: str = KEY
    secrets: Secrets = field(default_factory=dict)

    @property
    def refusal(self) -> str | None:
        """Return the expected error code; None if the start succeeds."""
        return self.action.removeprefix("refuse:") if self.action.startswith("refuse:") else None

    @property
    def base(self) -> str | None:
        """Return the revision that the file counts as; None for a new file."""
        found = re.search(r"\d{3}", self.action)
        return found.group() if found else {"none": HEAD}.get(self.action)

    @property
    def stamped(self) -> bool:
        """Return whether the version row must be written first."""
        return "stamp:" in self.action or self.tidied


def of(name: str, action: str, shape: Shape, *pragmas: str) -> Case:
    """Return the case of a shape with rows in every table."""
    return Case(name, action, lambda path: shape.write(path, pragmas))


def from_sql(*statements: str) -> Write:
    """Return a function that creates a file with some statements."""

    def write(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return write


def from_bytes(content: bytes) -> Write:
    """Return a function that creates a file with this content."""

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write
