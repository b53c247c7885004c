"""Which part of the fault trials runs, and how many held.

``FAULT_SHARE`` is the part that runs, from 0 to 1 (default: a tenth). ``FAULT_SEED`` selects it
(default: the number of the day) and is in the message of every failure. The same seed selects
the same trials in every process and on every machine.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import pytest

T = TypeVar("T")

SHARE: Final = float(os.environ.get("FAULT_SHARE") or 0.1)
SEED: Final = int(os.environ.get("FAULT_SEED") or datetime.now(UTC).date().toordinal())
# The processes of xdist must select the same tests, even if they start on another day.
os.environ["FAULT_SEED"] = str(SEED)


def half(cases: Sequence[T]) -> Sequence[T]:
    """Return every second case: a run of CI tries one half, and the next one maybe the other."""
    return cases if SHARE == 1 else cases[SEED % 2 :: 2]


_PROPERTY: Final = "faults"


def seeded(name: str) -> random.Random:
    """Return a random generator for the test called ``name``."""
    return random.Random(f"{SEED} {name}")  # noqa: S311 - repeatable, not secret


def scaled(full: int) -> int:
    """Return the share of ``full`` trials; at least one."""
    return max(1, round(full * SHARE))


def sample(points: Sequence[T], name: str = "") -> list[T]:
    """Return the selected points in their order; at least one if there are any."""
    return _sample(points, SHARE, name)


def sample_of_tests(cases: Sequence[T], name: str) -> list[T]:
    """Return the cases for which a test runs at all: a quarter of them at the default share."""
    return _sample(cases, SHARE * 2.5, name)


def _sample(points: Sequence[T], share: float, name: str) -> list[T]:
    if share >= 1 or not points:
        return list(points)
    number = min(max(1, round(len(points) * share)), len(points))
    return [points[n] for n in sorted(seeded(name).sample(range(len(points)), number))]


class Trials:
    """The trials of one test.

    Attributes:
        trials: their number by kind.
        failures: the kind and the problem of each failed trial.
    """

    def __init__(self) -> None:
        self.trials: Counter[str] = Counter()
        self.failures: list[tuple[str, str]] = []

    def count(self, kind: str, wrong: str | bool = "", times: int = 1) -> None:
        """Count ``times`` trials of ``kind``; ``wrong`` is the problem of the last one."""
        self.trials[kind] += times
        if wrong:
            self.failures.append((kind, str(wrong)))

    def check(self) -> None:
        """Fail if a trial failed, with the first failures and the seed."""
        failures = "\n".join(f"{kind}: {wrong}" for kind, wrong in self.failures[:5])
        total = self.trials.total()
        assert not self.failures, f"{len(self.failures)} of {total}, seed {SEED}:\n{failures}"

    def properties(self) -> list[tuple[str, object]]:
        """Return the counts as properties of a test report, which xdist sends."""
        failed = Counter(kind for kind, _ in self.failures)
        return [(_PROPERTY, (kind, n, n - failed[kind])) for kind, n in self.trials.items()]


def table(reports: Iterable[Any]) -> list[str]:
    """Return a line for each kind of trial: how many held, of how many."""
    trials: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for report in reports:
        for name, counted in report.user_properties:
            if name == _PROPERTY:
                kind, tried, good = counted
                trials[kind] += tried
                held[kind] += good
    return [f"{kind:<40} {held[kind]:>7,} of {n:>7,}" for kind, n in sorted(trials.items())]


def pytest_report_header() -> str:
    """Return the share and the seed, with which the same trials run again."""
    return f"faults: FAULT_SHARE={SHARE:g} FAULT_SEED={SEED}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    # The counts are known after the teardown, whose reports have no category.
    reports = terminalreporter.stats.get("", [])
    if lines := table(report for report in reports if report.when == "teardown"):
        terminalreporter.section(f"faults (FAULT_SHARE={SHARE:g} FAULT_SEED={SEED})")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Iterator[Trials]:
    """Counts the trials of this test, for the table at the end."""
    made = Trials()
    yield made
    request.node.user_properties.extend(made.properties())
