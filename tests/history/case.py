"""One historical file: how it is made, and what a correct start does with it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.contents import KEY
from tests.support.facts import HEAD
from tests.support.promises import Secrets
from tests.support.shapes import Shape

Write = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A file from the field.

    Attributes:
        name: what the field would call it.
        action: what a correct start does: ``create``, ``none``, ``repair@NNN``,
            ``upgrade:NNN->head``, ``resume:NNN->head``, ``repair->NNN->head``,
            ``stamp:NNN->head``, ``repair->stamp:NNN->head`` or ``refuse:CODE``.
        write: makes the file.
        adopted: tables whose rows turn up under another name afterwards.
        tidied: whether the version table is rewritten although it says enough.
        key: the Fernet key of its secrets.
        secrets: what must be readable, where somebody else wrote that down.
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
        """The code of the error; None where the start goes well."""
        return self.action.removeprefix("refuse:") if self.action.startswith("refuse:") else None

    @property
    def base(self) -> str | None:
        """The revision that the file counts as; None for a new one."""
        found = re.search(r"\d{3}", self.action)
        return found.group() if found else {"none": HEAD}.get(self.action)

    @property
    def stamped(self) -> bool:
        """Whether the version row has to be written first."""
        return "stamp:" in self.action or self.tidied


def of(name: str, action: str, shape: Shape, *pragmas: str) -> Case:
    """The case of a shape written with rows in every table."""
    return Case(name, action, lambda path: shape.write(path, pragmas))


def from_sql(*statements: str) -> Write:
    """A file that some statements make."""

    def write(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return write


def from_bytes(content: bytes) -> Write:
    """A file with exactly this in it."""

    def write(path: Path) -> None:
        path.write_bytes(content)

    return write
