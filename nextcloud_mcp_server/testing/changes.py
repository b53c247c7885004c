"""Rows that a revision changes on purpose, and its statements that changed no row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Engine, event

#: A row before and after a step, each with the columns that matter. Without the first, the
#: second is added; without the second, the first is deleted.
RowChange = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]

#: Changes by table. A row takes the first change whose columns it has; ``{}`` matches every row.
RowChanges = Mapping[str, Sequence[RowChange]]

#: SQLite's own tables may have no rows.
_CHANGING: Final = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/|with\b.*?\)\s*(?=update|delete))*"
    r'(?:update|delete\s+from)\s+(?!["`]?sqlite_)',
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a revision changes in rows on purpose.

    Attributes:
        upgrade: what its upgrade changes, by table.
        downgrade: what its downgrade changes, by table.
    """

    upgrade: RowChanges = field(default_factory=dict)
    downgrade: RowChanges = field(default_factory=dict)


class Statements:
    """The UPDATE and DELETE statements on an engine, with the rows that each has changed.

    Attributes:
        step: names the step that is running.
    """

    def __init__(self, engine: Engine) -> None:
        self.step = ""
        self._rows: Counter[str] = Counter()
        event.listen(engine, "after_cursor_execute", self._count)

    def _count(self, _connection: object, cursor: Any, statement: str, *_: object) -> None:
        if _CHANGING.match(statement):
            self._rows[f"{self.step}: {' '.join(statement.split())}"] += max(cursor.rowcount, 0)

    @property
    def untested(self) -> list[str]:
        """Those that changed no row in any step, each with its step."""
        return [statement for statement, rows in self._rows.items() if not rows]
