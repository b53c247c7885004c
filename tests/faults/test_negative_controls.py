"""Negative controls: what the fault suite is for, done wrong, and found by it every time.

A harness that lets these pass proves nothing by letting the program pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import checks, powercut, scenarios
from tests.faults.checks import Case
from tests.faults.injection import EIO_ONCE, ENOSPC, KILL, Injector, copy_database
from tests.faults.scenarios import Make, Scenario, of
from tests.faults.test_disk_errors import error_problem
from tests.faults.test_powercut import broken, record, write_files
from tests.faults.trials import seeded
from tests.support import shapes

BEHIND = of(shapes.at("009", "portable"))


def broken_case(injector: Injector, workspace: Path, do: str) -> Case:
    """A careless way from 009 to head, with the careful one as what it should come to."""
    careful = checks.reference_run(
        Scenario("careful", "start", make=BEHIND, base="009"), injector, workspace
    )
    scenario = Scenario("careless", do)
    path = copy_database(careful.source, workspace / "counted")
    counted = injector.run(do, path)
    return replace(careful, scenario=scenario, operations=counted.operations, checked={})


def faults(case: Case, workspace: Path, kind: int) -> Iterator[str]:
    """What is wrong after each fault of a kind, at operations all over the order."""
    every = range(1, case.operations + 1)
    for at in seeded(case.scenario.do).sample(every, len(every)):
        path = copy_database(case.source, workspace / "faulty")
        result = case.run(path, at, kind)
        only = case.new if result.end == "done" else None
        if wrong := case.wrong(path, only=only):
            yield wrong


def test_a_commit_for_every_statement_is_detected(injector: Injector, workspace: Path) -> None:
    """An upgrade with a commit for every statement is killed half-way somewhere."""
    assert any(faults(broken_case(injector, workspace, "naive"), workspace, KILL))


def test_a_transition_without_its_begin_is_detected(injector: Injector, workspace: Path) -> None:
    """Our own upgrade without its BEGIN leaves a database between two revisions."""
    found = faults(broken_case(injector, workspace, "without_begin"), workspace, KILL)
    assert any("neither the old" in wrong for wrong in found)


@pytest.mark.parametrize("kind", [ENOSPC, EIO_ONCE])
def test_an_upgrade_that_swallows_errors_is_detected(
    kind: int, injector: Injector, workspace: Path
) -> None:
    """An upgrade that logs its errors and goes on says that it is done when it is not."""
    assert any(faults(broken_case(injector, workspace, "log_and_go_on"), workspace, kind))


def test_a_file_that_is_left_open_is_detected(injector: Injector, workspace: Path) -> None:
    """Whoever forgets its connection on a failing disk is told from who closes it."""
    path = scenarios.prepare(
        Scenario("", "", make=scenarios.head_without_wal), workspace / "source"
    )
    result = injector.run("leave_open", path, at=1, kind=EIO_ONCE)
    assert "tokens.db, open as" in error_problem(result)


def test_a_promise_before_the_commit_is_detected(injector: Injector, workspace: Path) -> None:
    """A store that acknowledges before it commits loses an acknowledged token to a kill."""
    source = scenarios.prepare(Scenario("", "", make=scenarios.head), workspace / "source")
    total = injector.run(
        "early_promise", copy_database(source, workspace / "faulty"), argument="3"
    ).operations
    for at in range(1, total + 1):
        path = copy_database(source, workspace / "faulty")
        result = injector.run("early_promise", path, at=at, kind=KILL, argument="3")
        assert injector.restart(path).end == "done"
        if "lost" in checks.lost_acknowledgement(path, result.acknowledged):
            return
    pytest.fail("no lost token was noticed")


def test_a_copied_file_is_found_to_be_no_backup(injector: Injector, workspace: Path) -> None:
    """A copy of the file alone lacks what is in the -wal, and is told from a backup."""
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
    """What is wrong after power cuts of a scenario."""
    recording = record(scenario, injector, workspace)
    for _, disk, promises in powercut.states(recording, states, seeded(scenario.name)):
        if wrong := check(write_files(disk, workspace), promises):
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
    found = losses(
        injector, workspace, scenario, 300, lambda path, p: broken(scenario, injector, path, p)
    )
    assert any("lost" in wrong for wrong in found)


def test_an_upgrade_without_syncs_is_detected(injector: Injector, workspace: Path) -> None:
    """Our own upgrade with synchronous=OFF is left half-done, or damaged, by a power cut."""
    case = broken_case(injector, workspace, "start_unsynced")
    scenario = Scenario("unsynced", "start_unsynced", make=BEHIND)
    assert any(
        losses(injector, workspace, scenario, 200, lambda path, _: checks.state_problem(case, path))
    )
