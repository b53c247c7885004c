"""A full or failing disk: success, or one clear error and the old state; never half."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from tests.faults import checks, scenarios
from tests.faults.injection import (
    EIO,
    EIO_ONCE,
    ENOSPC,
    ENOSPC_ONCE,
    Injector,
    Result,
    copy_database,
)
from tests.faults.scenarios import Scenario
from tests.faults.trials import Trials, sample, sample_of_tests
from tests.support.contents import KEY

KINDS: Final = {
    "no space once": ENOSPC_ONCE,
    "no space from then on": ENOSPC,
    "an I/O error once": EIO_ONCE,
    "I/O errors from then on": EIO,
}

NAMED: Final = {"disk-full", "io-error", "backup-failed", "bad-path", "read-only", "corrupt"}


def error_problem(result: Result) -> str:
    """What is wrong with how an order ended; empty for success and for one clear error.

    Neither leaves a file open, or a thread, in the process that goes on.
    """
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
    """Wherever the disk fails, there is success or a named error, and the next start works.

    An error leaves the old database; or the new one, where it came after the commit, when the
    journal was switched to WAL or something was cleared away. Those are counted by themselves.
    """
    case = checks.reference_run(scenario, injector, workspace)
    for at in sample(range(1, case.operations + 1), f"{scenario} {kind}"):
        path = copy_database(case.source, workspace / "faulty")
        result = case.run(path, at, kind)
        late = result.end == "refused" and case.left(path) == case.new != case.old
        only = case.new if result.end == "done" else None
        wrong = error_problem(result) or case.wrong(path, only=only)
        kind_of_trial = "ENOSPC and EIO" + (": an error after the commit" if late else "")
        trials.count(kind_of_trial, wrong and f"at {at}, {result}: {wrong}")
    trials.check()


@pytest.mark.parametrize(("scenario", "kind"), cases(scenarios.WRITES))
def test_a_failing_disk_breaks_no_promise(
    scenario: Scenario, kind: int, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """A store on a failing disk fails by name, and what it had acknowledged is kept."""
    source = scenarios.prepare(scenario, workspace / "source")
    counted = injector.run(
        scenario.do, copy_database(source, workspace / "count"), argument=scenario.argument
    )
    key = None if scenario.do == "first_store" else KEY
    for at in sample(range(1, counted.operations + 1), f"{scenario} {kind}"):
        path = copy_database(source, workspace / "faulty")
        result = injector.run(scenario.do, path, at=at, kind=kind, argument=scenario.argument)
        wrong = error_problem(result)
        again = injector.restart(path, "start_with_key" if key is None else "start")
        if again.end != "done":
            wrong = wrong or f"the next start {again.end}: {again.message}"
        else:
            wrong = wrong or checks.lost_acknowledgement(path, result.acknowledged, key=key)
        trials.count("ENOSPC and EIO", wrong and f"at {at}, {result}: {wrong}")
    trials.check()
