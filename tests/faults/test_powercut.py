"""Power cuts: nothing promised is lost, and no database is left between two revisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.faults import checks, powercut, scenarios
from tests.faults.injection import Injector, copy_database
from tests.faults.powercut import Disk, Recording
from tests.faults.scenarios import Scenario
from tests.faults.trials import SHARE, Trials, scaled, seeded
from tests.support.contents import KEY
from tests.support.snapshot import opened_copy

#: The number of tests of each recording, which can run at the same time.
PARTS: Final = 4 if SHARE > 0.1 else 1

#: Scenes that promise, and how many states of each are tried in a full run.
PROMISING: Final = {
    Scenario("storing", "store", "20", scenarios.head): 2500,
    Scenario("storing at once", "store_together", "20", scenarios.head): 1100,
    Scenario("storing without WAL", "store_on_network", "12", scenarios.head_without_wal): 1700,
    Scenario("storing after a first start", "first_store", "3"): 200,
    Scenario("storing with a new key", "first_store", "3", scenarios.created): 800,
    Scenario("deleting", "delete", "5", scenarios.stored): 1000,
}

_WANTED: Final = {
    "a first start": 400,
    "raw 005": 300,
    "portable 010 in WAL": 300,
    "a writer killed at 006": 160,
    "a downgrade to -1": 240,
    "a downgrade to base": 160,
    "a stamp": 160,
    "a backup": 200,
    "a restore": 240,
    "a restore of what is gone": 200,
    "a repair of two revisions": 160,
    "a repair of a damaged index": 240,
}

#: Scenes that change a database as a whole, and how many states of each.
CHANGING: Final = dict(zip(scenarios.named(*_WANTED), _WANTED.values(), strict=True))


def record(scenario: Scenario, injector: Injector, workspace: Path) -> Recording:
    """Let a process do what the scenario says, unhurt, and write down how."""
    path = scenarios.prepare(scenario, workspace / "recorded" / "source")
    live = copy_database(path, workspace / "recorded" / "live")
    before = {p.name: (p.stat().st_ino, p.read_bytes()) for p in live.parent.iterdir()}
    listing = workspace / "recorded" / "listing"
    result = injector.run(scenario.do, live, argument=scenario.argument, record=listing)
    assert result.end == "done", result
    return Recording(live.parent, before, powercut.parse(listing.read_bytes()))


def unsound(path: Path) -> str:
    """What SQLite finds wrong with a closed database; empty when nothing is."""
    with opened_copy(path) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return "" if found == "ok" else str(found)


def broken(scenario: Scenario, injector: Injector, path: Path, promises: Sequence[str]) -> str:
    """What is lost of what a process had promised before its power went."""
    own_key = scenario.do == "first_store"
    again = injector.restart(path, "start_with_key" if own_key else "start")
    if again.end != "done":
        return f"the next start {again.end}: {again.code} {again.message}"
    key = None if own_key else KEY
    return unsound(path) or checks.lost_acknowledgement(path, promises, key=key)


def write_files(disk: Disk, workspace: Path) -> Path:
    """Write a state of the disk into an empty folder, and return the database's path."""
    folder = checks.clear(workspace / "faulty")
    for name, content in disk.items():
        (folder / name).write_bytes(content)
    return folder / "tokens.db"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scenario", PROMISING, ids=str)
def test_a_power_cut_loses_nothing_that_was_promised(
    scenario: Scenario, part: int, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """Whenever the power goes, what was acknowledged by then is there after the next start."""
    recording = record(scenario, injector, workspace)
    source = seeded(f"{scenario} {part}")
    for cut, disk, promises in powercut.states(
        recording, scaled(PROMISING[scenario] // PARTS), source
    ):
        wrong = broken(scenario, injector, write_files(disk, workspace), promises)
        trials.count("power cut: acknowledged writes", wrong and f"after {cut}: {wrong}")
    trials.check()


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scenario", CHANGING, ids=str)
def test_a_power_cut_leaves_no_database_half_changed(
    scenario: Scenario, part: int, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """Whenever the power goes, the database is the old one or the new one, and starts."""
    case = checks.reference_run(scenario, injector, workspace)
    recording = record(scenario, injector, workspace)
    source = seeded(f"{scenario} {part}")
    for cut, disk, promises in powercut.states(
        recording, scaled(CHANGING[scenario] // PARTS), source
    ):
        path = write_files(disk, workspace)
        names = [promise.removeprefix("backup ") for promise in promises if promise != "done"]
        wrong = checks.state_problem(case, path, only=case.new if "done" in promises else None)
        wrong = wrong or checks.backup_problem(case, path, promised=names)
        wrong = wrong or checks.restart_problem(case, path) or unsound(path)
        trials.count("power cut: half-migrated", wrong and f"after {cut}: {wrong}")
    trials.check()
