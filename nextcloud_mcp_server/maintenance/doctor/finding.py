"""What one check has found: a level, a line for people, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Level(StrEnum):
    """How bad a finding is. The values are the words people see."""

    OK = "ok"
    NOTE = "note"
    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


#: How the command begins that looks again as another user.
AS_OWNER: Final = "sudo"

#: Worst first, as people are told.
WORST_FIRST = (Level.ERROR, Level.WARNING, Level.UNKNOWN, Level.NOTE, Level.OK)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a diagnosis.

    Attributes:
        check: the name of the check.
        level: how bad it is. An ``error`` keeps a start or a person's tokens from working;
            ``unknown`` is what could not be looked at, and may be anything.
        message: what was found, on one line, without a secret.
        mend: the command that mends it, or that sees what is unknown; None where none does.
        mendable: whether ``db repair`` does it.
    """

    check: str
    level: Level
    message: str
    mend: str | None = None
    mendable: bool = False

    @property
    def looks(self) -> bool:
        """Whether its command mends nothing, and looks again as another user."""
        return self.mend is not None and self.mend.startswith(f"{AS_OWNER} ")
