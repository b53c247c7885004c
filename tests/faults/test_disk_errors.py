"""A full or failing disk: success, or one clear error and an intact database."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from tests.faults import checks, scenarios
from tests.faults.checks import count_operations, each_fault
from tests.faults.injection import EIO, EIO_ONCE, ENOSPC, ENOSPC_ONCE, Injector, Result
from tests.faults.scenarios import Scenario
from tests.faults.trials import Trials, sample, sample_of_tests

KINDS: Final = {
    "no space once": ENOSPC_ONCE,
    "no space from then on": ENOSPC,
    "an I/O error once": EIO_ONCE,
    "I/O errors from then on": EIO,
}

NAMED: Final = {"disk-full", "io-error", "backup-failed", "bad-path", "read-only", "corrupt"}


def error_problem(result: Result) -> str:
    """Return the problem of a result; empty for success and for one clear error without leaks."""
    if result.left:
        return f"it left {', '.join(result.left)}"
    if result.end == "done":
        return ""
    clear = result.end == "refused" and result.code in NAMED and "\n" not in result.message
    return "" if clear else f"it {result.end}: {result.code} {result.message}"


def cases(every: Sequence[Scenario]) -> list[object]:
    """Return each scenario with each kind of error, or a sample of them."""
    pairs = [*product(every, KINDS)]
    return [
        pytest.param(scenario, KINDS[kind], id=f"{scenario}-{kind}")
        for scenario, kind in sample_of_tests(pairs, "disk errors")
    ]


@pytest.mark.parametrize(("scenario", "kind"), cases(scenarios.TYPICAL))
def test_a_failing_disk_is_one_clear_error(
    scenario: Scenario, kind: int, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """There is success or a named error, and the next start works.

    An error leaves the old database, or the new one if it came after the commit, while the
    journal was switched to WAL or files were removed. Those are counted separately.
    """
    case = checks.reference_run(scenario, injector, workspace)
    points = sample(range(1, case.operations + 1), f"{scenario} {kind}")
    for at, path, result in each_fault(injector, scenario, case.source, kind, points):
        late = result.end == "refused" and case.left(path) == case.new != case.old
        only = case.new if result.end == "done" else None
        wrong = error_problem(result) or case.wrong(path, only=only)
        kind_of_trial = "ENOSPC and EIO" + (": an error after the commit" if late else "")
        trials.count(kind_of_trial, wrong and f"at {at}, {result}: {wrong}")
    trials.check()


@pytest.mark.parametrize(("scenario", "kind"), cases(scenarios.WRITES))
def test_a_failing_disk_loses_no_acknowledged_write(
    scenario: Scenario, kind: int, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """A store on a failing disk raises a named error and keeps what it has acknowledged."""
    source = scenarios.prepare(scenario, workspace / "source")
    counted = count_operations(injector, scenario, source)
    points = sample(range(1, counted.operations + 1), f"{scenario} {kind}")
    for at, path, result in each_fault(injector, scenario, source, kind, points):
        lost = checks.reopen_problem(scenario, injector, path, result.acknowledged)
        wrong = error_problem(result) or lost
        trials.count("ENOSPC and EIO", wrong and f"at {at}, {result}: {wrong}")
    trials.check()
