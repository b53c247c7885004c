"""The result of a check: a level, a line of text, and the command that fixes the problem."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    NOTE = "note"
    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


#: The order of the output.
WORST_FIRST = (Level.ERROR, Level.WARNING, Level.UNKNOWN, Level.NOTE, Level.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        level: how severe it is. An ``error`` prevents a start or makes a user's tokens
            unusable; ``unknown`` could not be checked.
        message: the finding, on one line, without a secret.
        command: the command that fixes it; None if there is none.
        fixable: whether ``db repair`` fixes it.
        check: the name of the check; :func:`~.run.diagnose` adds it.
    """

    level: Level
    message: str
    command: str | None = None
    fixable: bool = False
    check: str = ""
