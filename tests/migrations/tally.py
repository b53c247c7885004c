"""Which steps of the history were walked, and how: told when all tests have run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    import pytest

_PROPERTY: Final = "walked"

#: The ways to take one step; "again" is on its own result.
WAYS: Final = ("up", "up again", "down", "down again", "SQL up", "SQL down")

#: What stands for both ends of a test that leaps from everywhere to everywhere.
EACH: Final = "each"


class Walk:
    """What one test walks, for the table.

    Args:
        record: pytest's ``record_property``.
        engine: the name of the database's dialect.
    """

    def __init__(self, record: Callable[[str, object], None], engine: str) -> None:
        self._record = record
        self._engine = engine
        self._found: dict[str, Any] = {}

    def begins(self, start: str, end: str, how: str) -> None:
        """Say what is to be walked; a test that fails after this is a walk that failed."""
        low, high = (end, start) if "down" in how else (start, end)
        self._found = {
            "engine": self._engine,
            "low": low,
            "high": high,
            "how": how,
            "times": 0,
            "rows": 0,
            "tables": [],
        }
        self._record(_PROPERTY, self._found)

    def kept(self, rows: Mapping[str, Sequence[object]]) -> None:
        """Say which rows were the same after it."""
        tables = {name for name, members in rows.items() if members}
        self._found["times"] += 1
        self._found["rows"] += sum(map(len, rows.values()))
        self._found["tables"] = sorted(tables | {*self._found["tables"]})


class Reported(Protocol):
    """The report of a test, from whatever process."""

    outcome: str
    user_properties: list[tuple[str, object]]


def table(reports: Iterable[Reported]) -> list[str]:
    """A line for each step on each engine, and one for the leaps between all revisions."""
    steps: dict[tuple[str, str, str], list[tuple[str, dict[str, Any]]]] = {}
    for report in reports:
        for name, found in getattr(report, "user_properties", ()):
            if name == _PROPERTY and isinstance(found, dict):
                step = (found["engine"], found["low"], found["high"])
                steps.setdefault(step, []).append((report.outcome, found))
    if not steps:
        return []
    head = _line("engine", "between", "", *WAYS, "rows kept", "verdict")
    return [head, *(_told(step, steps[step]) for step in sorted(steps, key=_order))]


def _order(step: tuple[str, str, str]) -> tuple[str, bool, bool, str]:
    engine, low, high = step
    return engine, low == EACH, low != "base", high


def _told(step: tuple[str, str, str], walks: list[tuple[str, dict[str, Any]]]) -> str:
    engine, low, high = step
    outcomes: dict[str, str] = {}
    for outcome, found in walks:
        if outcomes.get(found["how"]) != "FAILED":
            outcomes[found["how"]] = "ok" if outcome == "passed" else "FAILED"
    rows = sum(found["rows"] for _, found in walks)
    tables = {name for _, found in walks for name in found["tables"]}
    if low == EACH:
        marks = ["", f"{sum(found['times'] for _, found in walks)} leaps", *[""] * (len(WAYS) - 2)]
    else:
        marks = [outcomes.get(way, "-") for way in WAYS]
    verdict = "FAILED" if "FAILED" in outcomes.values() else "held"
    return _line(engine, low, high, *marks, f"{rows:,} of {len(tables)} tables", verdict)


def _line(engine: str, low: str, high: str, *rest: str) -> str:
    *marks, rows, verdict = rest
    cells = " ".join(f"{mark:<{len(way) + 2}}" for mark, way in zip(marks, WAYS, strict=True))
    return f"{engine:<11} {low:<7} {high:<5} {cells} {rows:<22} {verdict}".rstrip()


def summarize(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, where anything was walked."""
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
