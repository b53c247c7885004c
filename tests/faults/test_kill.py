"""SIGKILL at every file operation: the next start completes the operation and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import checks, scenarios
from tests.faults.checks import count_operations, each_fault
from tests.faults.injection import KILL, Injector, copy_database
from tests.faults.scenarios import SAVED, Scenario, with_saved
from tests.faults.trials import Trials, sample, sample_of_tests
from tests.support.snapshot import snapshot


@pytest.mark.parametrize(
    "scenario", sample_of_tests((*scenarios.UPGRADES, *scenarios.CHANGES), "kill"), ids=str
)
def test_a_killed_change_is_completed_by_the_next_start(
    scenario: Scenario, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """After a kill the file is the old one or the new one, and a start migrates it to head."""
    case = checks.reference_run(scenario, injector, workspace)
    points = sample(range(1, case.operations + 1), str(scenario))
    for at, path, result in each_fault(injector, scenario, case.source, KILL, points):
        assert result.end == "killed", (at, result)
        wrong = case.wrong(path)
        trials.count(f"SIGKILL: {scenario.do}", wrong and f"killed at {at}: {wrong}")
    trials.check()


@pytest.mark.parametrize("scenario", scenarios.WRITES, ids=str)
def test_an_acknowledged_write_survives_a_kill(
    scenario: Scenario, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """A write or deletion that the store has acknowledged is durable after a kill."""
    source = scenarios.prepare(scenario, workspace / "source")
    counted = count_operations(injector, scenario, source)
    assert len(counted.acknowledged) == int(scenario.argument), counted
    points = sample(range(1, counted.operations + 1), str(scenario))
    for at, path, result in each_fault(injector, scenario, source, KILL, points):
        assert result.end == "killed", (at, result)
        wrong = checks.reopen_problem(scenario, injector, path, result.acknowledged)
        trials.count(f"SIGKILL: {scenario.do}", wrong and f"killed at {at}: {wrong}")
    trials.check()


GARBAGE = b"no database any more" * 5_000


def _garbage(path: Path) -> None:
    path.write_bytes(GARBAGE)
    path.with_name(path.name + "-wal").write_bytes(GARBAGE)


def _restore_problem(path: Path, injector: Injector) -> str:
    """Return the problem of what a killed restore has left, or of a second restore."""
    saved = checks.digest(snapshot(path.with_name(SAVED)))
    if not path.exists():
        return "there is a moment without a file"
    raw = path.read_bytes()
    if raw != GARBAGE and checks.digest(snapshot(path)) != saved:
        return "it is neither the old file nor the restored one"
    again = injector.run("restore", path, argument=SAVED)
    if again.end != "done":
        return f"the second restore {again.end}: {again.code} {again.message}"
    if checks.digest(snapshot(path)) != saved:
        return "the second restore did not restore"
    kept = [p.read_bytes() for p in path.parent.glob("tokens.db.damaged-*Z")]
    return "" if GARBAGE in kept else "the damaged file was not kept"


def test_a_killed_restore_of_a_damaged_file_can_be_repeated(
    injector: Injector, workspace: Path, trials: Trials
) -> None:
    """The file is the damaged one or the restored one and never missing; a restore repeats."""
    scenario = Scenario("", "restore", SAVED, with_saved(_garbage))
    source = scenarios.prepare(scenario, workspace / "source")
    counted = count_operations(injector, scenario, source)
    points = sample(range(1, counted.operations + 1), "a restore over damage")
    for at, path, result in each_fault(injector, scenario, source, KILL, points):
        assert result.end == "killed", (at, result)
        wrong = _restore_problem(path, injector)
        trials.count("SIGKILL: restore", wrong and f"killed at {at}: {wrong}")
    trials.check()


def test_the_first_operation_is_one_and_the_last_is_counted(
    injector: Injector, workspace: Path
) -> None:
    """Killed at the first operation nothing has changed; after the last one nothing happens."""
    case = checks.reference_run(
        Scenario("", "start", make=scenarios.WRITES[0].make), injector, workspace
    )
    path = copy_database(case.source, workspace / "faulty")
    assert injector.run("start", path, at=1, kind=KILL).end == "killed"
    assert injector.run("start", path, at=10_000, kind=KILL).end == "done"
