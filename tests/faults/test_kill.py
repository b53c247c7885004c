"""SIGKILL at every file operation: the next start completes what was begun, with everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import checks, scenarios
from tests.faults.injection import KILL, Injector, copy_database
from tests.faults.scenarios import SAVED, Scenario, with_saved
from tests.faults.trials import Trials, sample, sample_of_tests
from tests.support.contents import KEY
from tests.support.snapshot import snapshot


def scenario_id(scenario: Scenario) -> str:
    """The id of a scenario's test."""
    return str(scenario)


@pytest.mark.parametrize(
    "scenario", sample_of_tests((*scenarios.UPGRADES, *scenarios.CHANGES), "kill"), ids=scenario_id
)
def test_a_killed_change_is_completed_by_the_next_start(
    scenario: Scenario, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """Killed anywhere, the file is the old one or the new one, and a start brings it to head."""
    case = checks.reference_run(scenario, injector, workspace)
    for at in sample(range(1, case.operations + 1), str(scenario)):
        path = copy_database(case.source, workspace / "faulty")
        result = case.run(path, at, KILL)
        assert result.end == "killed", (at, result)
        wrong = case.wrong(path)
        trials.count(f"SIGKILL: {scenario.do}", wrong and f"killed at {at}: {wrong}")
    trials.check()


@pytest.mark.parametrize("scenario", scenarios.WRITES, ids=scenario_id)
def test_an_acknowledged_write_survives_a_kill(
    scenario: Scenario, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """What the store has said is stored, or deleted, is so after a kill at any operation."""
    source = scenarios.prepare(scenario, workspace / "source")
    counted = injector.run(
        scenario.do, copy_database(source, workspace / "count"), argument=scenario.argument
    )
    assert len(counted.acknowledged) == int(scenario.argument), counted
    key = None if scenario.do == "first_store" else KEY
    for at in sample(range(1, counted.operations + 1), str(scenario)):
        path = copy_database(source, workspace / "faulty")
        result = injector.run(scenario.do, path, at=at, kind=KILL, argument=scenario.argument)
        assert result.end == "killed", (at, result)
        again = injector.restart(path, "start_with_key" if key is None else "start")
        wrong = again.end != "done" and f"the next start {again.end}: {again.message}"
        wrong = wrong or checks.lost_acknowledgement(path, result.acknowledged, key=key)
        trials.count(f"SIGKILL: {scenario.do}", wrong and f"killed at {at}: {wrong}")
    trials.check()


GARBAGE = b"no database any more" * 5_000


def _garbage(path: Path) -> None:
    path.write_bytes(GARBAGE)
    path.with_name(path.name + "-wal").write_bytes(GARBAGE)


def _wrong(path: Path, injector: Injector) -> str:
    """What is wrong with what a kill has left, and with a second restore."""
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
    return "" if GARBAGE in kept else "what it replaced is not kept"


def test_a_killed_restore_over_damage_is_done_again(
    injector: Injector, workspace: Path, trials: Trials
) -> None:
    """The file is the damaged one or the restored one, and never missing; both end restored."""
    source = scenarios.prepare(Scenario("", "", make=with_saved(_garbage)), workspace / "source")
    counted = injector.run("restore", copy_database(source, workspace / "count"), argument=SAVED)
    assert counted.end == "done", counted
    for at in sample(range(1, counted.operations + 1), "a restore over damage"):
        path = copy_database(source, workspace / "faulty")
        result = injector.run("restore", path, at=at, kind=KILL, argument=SAVED)
        assert result.end == "killed", (at, result)
        wrong = _wrong(path, injector)
        trials.count("SIGKILL: restore", wrong and f"killed at {at}: {wrong}")
    trials.check()


def test_a_restore_by_copying_is_detected(injector: Injector, workspace: Path) -> None:
    """Negative control: `cp` over the file leaves half of one and half of the other."""
    scenario = Scenario("careful", "restore", SAVED, with_saved(scenarios.head), "010", keeps=False)
    case = checks.reference_run(scenario, injector, workspace)
    scenario = replace(scenario, do="restore_by_copying")
    counted = injector.run(
        scenario.do, copy_database(case.source, workspace / "count"), argument=SAVED
    )
    case = replace(case, scenario=scenario, operations=counted.operations, checked={})
    for at in range(1, case.operations + 1):
        path = copy_database(case.source, workspace / "faulty")
        case.run(path, at, KILL)
        if case.wrong(path):
            return
    pytest.fail("no half-restored database was noticed")
