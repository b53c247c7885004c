"""How many trials of each kind there were, and how many held: told when all tests have run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

from tests.faults.share import SEED, SHARE

if TYPE_CHECKING:
    import pytest

_PROPERTY: Final = "faults"


class Tally:
    """The trials of one test.

    Attributes:
        trials: how many there were of each kind.
        failures: what went wrong, in words.
    """

    def __init__(self) -> None:
        self.trials: Counter[str] = Counter()
        self.failures: list[tuple[str, str]] = []

    def count(self, kind: str, wrong: str | bool = "", times: int = 1) -> None:
        """Count ``times`` trials of ``kind``; ``wrong`` says how the last of them went wrong."""
        self.trials[kind] += times
        if wrong:
            self.failures.append((kind, str(wrong)))

    def settle(self) -> None:
        """Fail where anything went wrong, with the first few and the seed."""
        told = "\n".join(f"{kind}: {wrong}" for kind, wrong in self.failures[:5])
        total = self.trials.total()
        assert not self.failures, f"{len(self.failures)} of {total}, seed {SEED}:\n{told}"

    def properties(self) -> list[tuple[str, object]]:
        """What travels with the test's report, from whatever process it ran in."""
        failed = Counter(kind for kind, _ in self.failures)
        return [(_PROPERTY, (kind, n, n - failed[kind])) for kind, n in self.trials.items()]


class _Reported(Protocol):
    user_properties: list[tuple[str, object]]


def table(reports: Iterable[_Reported]) -> list[str]:
    """A line for each kind of trial: how many held, of how many."""
    trials: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for report in reports:
        for name, counted in getattr(report, "user_properties", ()):
            if name == _PROPERTY:
                kind, tried, good = counted
                trials[kind] += tried
                held[kind] += good
    return [f"{kind:<40} {held[kind]:>7,} of {n:>7,}" for kind, n in sorted(trials.items())]


def pytest_report_header() -> str:
    """Say which share runs, and how the same one runs again."""
    return f"faults: FAULT_SHARE={SHARE:g} FAULT_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    finished = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if getattr(report, "when", "") == "call"
    ]
    if lines := table(finished):
        terminalreporter.section(f"faults (FAULT_SHARE={SHARE:g} FAULT_SEED={SEED})")
        for line in lines:
            terminalreporter.line(line)
