"""Rows that a revision changes on purpose, and its statements that changed no row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Engine, event

#: A row before and after a step, with the columns that matter. None before: it is added. None
#: after: it is deleted. ``{}`` before: every row that no earlier change is for.
RowChange = tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]

#: Changes by table.
RowChanges = Mapping[str, Sequence[RowChange]]

#: A statement that changes rows, except in SQLite's own tables.
_CHANGING: Final = re.compile(
    r'(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:with\b.*?\)\s*)?(?:update|delete\s+from)\s+(?!"?sqlite_)',
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Changes:
    """The intended changes of rows by the upgrade and the downgrade of a revision."""

    upgrade: RowChanges = field(default_factory=dict)
    downgrade: RowChanges = field(default_factory=dict)


class Statements:
    """The UPDATE and DELETE statements on an engine by ``step``, with the rows they changed."""

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
