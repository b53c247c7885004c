"""Negative controls: operations with well-known mistakes, which the checks must detect.

Checks that let these pass would prove nothing about the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import checks, powercut, scenarios
from tests.faults.checks import Case, count_operations, each_fault
from tests.faults.injection import EIO_ONCE, ENOSPC, KILL, Injector, copy_database
from tests.faults.scenarios import SAVED, Make, Scenario, of, with_saved
from tests.faults.test_disk_errors import error_problem
from tests.faults.test_powercut import record, write_files
from tests.faults.trials import seeded
from tests.support import shapes

BEHIND = Scenario("correct", "start", make=of(shapes.at("009", "portable")), base="009")
RESTORE = Scenario("correct", "restore", SAVED, with_saved(scenarios.head), "010", keeps=False)


def broken_case(injector: Injector, workspace: Path, do: str, correct: Scenario = BEHIND) -> Case:
    """Return the reference run of ``correct`` with the operations of the broken one."""
    case = checks.reference_run(correct, injector, workspace)
    scenario = replace(correct, name=do, do=do)
    path = copy_database(case.source, workspace / "counted")
    operations = injector.run(do, path, argument=scenario.argument).operations
    return replace(case, scenario=scenario, operations=operations, checked={})


def problems(case: Case, workspace: Path, kind: int) -> Iterator[str]:
    """Yield what is wrong after faults of a kind, at file operations in random order."""
    every = range(1, case.operations + 1)
    points = seeded(case.scenario.do).sample(every, len(every))
    faults = each_fault(case.injector, case.scenario, case.source, kind, points)
    for _, path, result in faults:
        if wrong := case.wrong(path, only=case.new if result.end == "done" else None):
            yield wrong


@pytest.mark.parametrize(
    ("do", "kind", "problem"),
    [
        pytest.param("naive", KILL, "", id="a commit for every statement"),
        pytest.param("without_begin", KILL, "neither the old", id="a missing BEGIN"),
        pytest.param("log_and_go_on", ENOSPC, "", id="swallowed errors of a full disk"),
        pytest.param("log_and_go_on", EIO_ONCE, "", id="a swallowed I/O error"),
    ],
)
def test_a_broken_upgrade_is_detected(
    do: str, kind: int, problem: str, injector: Injector, workspace: Path
) -> None:
    """The upgrade is incomplete after some fault, or reports success without it."""
    found = problems(broken_case(injector, workspace, do), workspace, kind)
    assert any(problem in wrong for wrong in found)


def test_a_restore_by_copying_is_detected(injector: Injector, workspace: Path) -> None:
    """A restore with `cp` is incomplete after some kill."""
    case = broken_case(injector, workspace, "restore_by_copying", RESTORE)
    assert any(problems(case, workspace, KILL))


def test_a_file_that_is_left_open_is_detected(injector: Injector, workspace: Path) -> None:
    """A connection that is not closed after an error is reported."""
    path = scenarios.prepare(
        Scenario("", "", make=scenarios.head_without_wal), workspace / "source"
    )
    result = injector.run("leave_open", path, at=1, kind=EIO_ONCE)
    assert "tokens.db, open as" in error_problem(result)


def test_an_early_acknowledgement_is_detected(injector: Injector, workspace: Path) -> None:
    """A store that acknowledges before it commits loses a token after some kill."""
    scenario = Scenario("", "early_promise", "3", scenarios.head)
    source = scenarios.prepare(scenario, workspace / "source")
    points = range(1, count_operations(injector, scenario, source).operations + 1)
    faults = each_fault(injector, scenario, source, KILL, points)
    assert any(
        "lost" in checks.reopen_problem(scenario, injector, path, result.acknowledged)
        for _, path, result in faults
    )


def test_a_copied_file_is_no_backup(injector: Injector, workspace: Path) -> None:
    """A copy of the file without its -wal is not accepted as a backup."""
    path = scenarios.prepare(Scenario("", "", make=scenarios.head), workspace / "source")
    result = injector.run("copy_as_backup", path)
    assert result.end == "done"
    assert "does not hold" in checks.lost_acknowledgement(path, result.acknowledged)


def losses(
    injector: Injector,
    workspace: Path,
    scenario: Scenario,
    states: int,
    check: Callable[[Path, list[str]], str],
) -> Iterator[str]:
    """Yield what is wrong after power cuts of a scenario."""
    recording = record(scenario, injector, workspace)
    for _, disk, acknowledged in powercut.states(recording, states, seeded(scenario.name)):
        if wrong := check(write_files(disk, workspace), acknowledged):
            yield wrong


@pytest.mark.parametrize(
    ("do", "make"),
    [("store_in_delete_mode", scenarios.head_without_wal), ("store_with_normal", scenarios.head)],
)
def test_a_store_that_syncs_too_little_is_detected(
    do: str, make: Make, injector: Injector, workspace: Path
) -> None:
    """DELETE with FULL, and WAL with NORMAL, lose acknowledged tokens in a power cut."""
    scenario = Scenario(do, do, "12", make)

    def check(path: Path, acknowledged: list[str]) -> str:
        return checks.reopen_problem(scenario, injector, path, acknowledged)

    assert any("lost" in wrong for wrong in losses(injector, workspace, scenario, 300, check))


def test_an_upgrade_without_syncs_is_detected(injector: Injector, workspace: Path) -> None:
    """The upgrade with synchronous=OFF is incomplete or damaged after a power cut."""
    case = broken_case(injector, workspace, "start_unsynced")

    def check(path: Path, _acknowledged: list[str]) -> str:
        return checks.state_problem(case, path)

    assert any(losses(injector, workspace, case.scenario, 200, check))
