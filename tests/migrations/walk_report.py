"""What a run has walked of the history, printed when it ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pytest

_PROPERTY: Final = "walked"


class Walk:
    """Records the step that one test walks.

    Args:
        record: pytest's ``record_property``.
        engine: the name of the database's dialect.
    """

    def __init__(self, record: Callable[[str, object], None], engine: str) -> None:
        self._found: dict[str, Any] = {"engine": engine, "rows": 0}
        record(_PROPERTY, self._found)

    def begins(self, start: str, end: str, way: str) -> None:
        """Record the way ("up", "down again") from ``start`` to ``end``."""
        self._found |= {"way": way, "step": f"{start} -> {end}"}

    def kept(self, rows: Mapping[str, Sized]) -> None:
        """Record the rows, by table, that were compared after the step."""
        self._found["rows"] = sum(map(len, rows.values()))


def lines(reports: list[Any]) -> list[str]:
    """Return a line for each engine and way: how many steps passed, with how many rows."""
    found = defaultdict(list)
    for report in reports:
        for name, walked in report.user_properties:
            if name == _PROPERTY and report.when == "call":
                found[f"{walked['engine']}, {walked['way']}"].append(walked)
    return [
        f"{way}: {len({one['step'] for one in walked})} revisions, "
        f"{sum(one['rows'] for one in walked):,} rows kept"
        for way, walked in sorted(found.items())
    ]


def summarize(reporter: pytest.TerminalReporter) -> None:
    """Print what the tests that passed have walked; what failed is above it."""
    if walked := lines(reporter.stats.get("passed", [])):
        reporter.section("migrations walked, with rows in every table")
        for line in walked:
            reporter.line(line)
