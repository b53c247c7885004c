"""The steps of the history that a run has walked, printed as a table when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import pytest

_PROPERTY: Final = "walked"

#: The ways to take one step; "again" is on its own result.
WAYS: Final = ("up", "up again", "down", "down again", "SQL up", "SQL down")


class Walk:
    """What one test walks.

    Args:
        record: pytest's ``record_property``.
        engine: the name of the database's dialect.
    """

    def __init__(self, record: Callable[[str, object], None], engine: str) -> None:
        self._found: dict[str, Any] = {"engine": engine}
        self._record = record

    def begins(self, start: str, end: str, way: str) -> None:
        """Record that a step begins; if the test fails after this, the step failed."""
        low, high = (end, start) if "down" in way else (start, end)
        self._found |= {"step": (low != "base", f"{low} {high}"), "way": way, "rows": 0}
        self._record(_PROPERTY, self._found)

    def kept(self, rows: Mapping[str, Sequence[object]]) -> None:
        """Record the rows, by table, that were compared after it."""
        self._found["rows"] += sum(map(len, rows.values()))


class Reported(Protocol):
    """The report of a test, from any process."""

    outcome: str
    user_properties: list[tuple[str, object]]


def table(reports: Iterable[Reported]) -> list[str]:
    """Return a line for each step on each engine."""
    steps: dict[tuple[str, Any], dict[str, Any]] = {}
    for report in reports:
        for name, found in getattr(report, "user_properties", ()):
            if name == _PROPERTY and isinstance(found, dict):
                step = steps.setdefault((found["engine"], tuple(found["step"])), {"rows": 0})
                step["rows"] += found["rows"]
                if step.get(found["way"]) != "FAILED":
                    step[found["way"]] = "ok" if report.outcome == "passed" else "FAILED"
    lines = [
        _line(engine, between, [step.get(way, "-") for way in WAYS], f"{step['rows']:,}")
        for (engine, (_, between)), step in sorted(steps.items())
    ]
    return [_line("engine", "between", WAYS, "rows kept"), *lines] if lines else []


def _line(engine: str, between: str, marks: Iterable[str], rows: str) -> str:
    cells = " ".join(f"{mark:<{max(len(way), 6)}}" for mark, way in zip(marks, WAYS, strict=True))
    return f"{engine:<10} {between:<8} {cells} {rows}"


def summarize(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, if anything was walked."""
    finished = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if getattr(report, "when", "") == "call"
    ]
    if lines := table(finished):
        terminalreporter.section("migrations walked, with rows in every table")
        for line in lines:
            terminalreporter.line(line)
