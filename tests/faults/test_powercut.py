"""Power cuts lose no acknowledged write and leave no database between two revisions."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.migrations import upgrade_database
from tests.faults import checks, powercut, scenarios
from tests.faults.injection import Injector, clear, copy_database
from tests.faults.powercut import Disk, Recording
from tests.faults.scenarios import Scenario
from tests.faults.trials import SHARE, Trials, scaled, seeded

#: The number of tests of each recording, which can run at the same time.
PARTS: Final = 4 if SHARE > 0.1 else 1

#: Scenarios that acknowledge writes, and the number of states of each in a full run.
WRITING: Final = {
    Scenario("storing", "store", "20", scenarios.head): 2500,
    Scenario("storing at once", "store_together", "20", scenarios.head): 1100,
    Scenario("storing without WAL", "store_on_network", "12", scenarios.head_without_wal): 1700,
    Scenario("storing after a first start", "first_store", "3"): 200,
    Scenario("storing with a new key", "first_store", "3", upgrade_database): 800,
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

#: Scenarios that change the schema or the file, and the number of states of each.
CHANGING: Final = dict(zip(scenarios.named(*_WANTED), _WANTED.values(), strict=True))


def record(scenario: Scenario, injector: Injector, workspace: Path) -> Recording:
    """Run the scenario without a fault and record its file operations."""
    path = scenarios.prepare(scenario, workspace / "recorded" / "source")
    live = copy_database(path, workspace / "recorded" / "live")
    before = {p.name: (p.stat().st_ino, p.read_bytes()) for p in live.parent.iterdir()}
    listing = workspace / "recorded" / "listing"
    result = injector.run(scenario.do, live, argument=scenario.argument, record=listing)
    assert result.end == "done", result
    return Recording(live.parent, before, powercut.parse(listing.read_bytes()))


def write_files(disk: Disk, workspace: Path) -> Path:
    """Write a state of the disk into an empty folder and return the path of the database."""
    folder = clear(workspace / "faulty")
    for name, content in disk.items():
        # As every file of the program: a start refuses a key that others can read.
        (folder / name).touch(0o600)
        (folder / name).write_bytes(content)
    return folder / "tokens.db"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scenario", WRITING, ids=str)
def test_a_power_cut_loses_no_acknowledged_write(
    scenario: Scenario, part: int, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """After a power cut at any operation each acknowledged write is there."""
    recording = record(scenario, injector, workspace)
    source = seeded(f"{scenario} {part}")
    for cut, disk, acknowledged in powercut.states(
        recording, scaled(WRITING[scenario] // PARTS), source
    ):
        path = write_files(disk, workspace)
        wrong = checks.reopen_problem(scenario, injector, path, acknowledged)
        trials.count("power cut: acknowledged writes", wrong and f"after {cut}: {wrong}")
    trials.check()


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scenario", CHANGING, ids=str)
def test_a_power_cut_leaves_no_incomplete_change(
    scenario: Scenario, part: int, injector: Injector, workspace: Path, trials: Trials
) -> None:
    """After a power cut at any operation the database is the old or the new one, and starts."""
    case = checks.reference_run(scenario, injector, workspace)
    recording = record(scenario, injector, workspace)
    source = seeded(f"{scenario} {part}")
    for cut, disk, acknowledged in powercut.states(
        recording, scaled(CHANGING[scenario] // PARTS), source
    ):
        path = write_files(disk, workspace)
        names = [text.removeprefix("backup ") for text in acknowledged if text != "done"]
        wrong = checks.state_problem(case, path, only=case.new if "done" in acknowledged else None)
        wrong = wrong or checks.backup_problem(case, path, acknowledged=names)
        wrong = wrong or checks.restart_problem(case, path) or checks.integrity_problem(path)
        trials.count("power cut: half-migrated", wrong and f"after {cut}: {wrong}")
    trials.check()
