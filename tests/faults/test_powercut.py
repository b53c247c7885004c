"""Power cuts: nothing promised is lost, and no database is left between two revisions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.faults import judge, powercut, scenes
from tests.faults.harness import Victim, copy_database
from tests.faults.powercut import Disk, Recording
from tests.faults.scenes import Scene
from tests.faults.share import amount, chance
from tests.faults.tally import Tally
from tests.support.contents import KEY
from tests.support.snapshot import opened_copy

#: Each recording is cut by so many tests, which can run at the same time.
PARTS: Final = 4

#: Scenes that promise, and how many states of each are tried in a full run.
PROMISING: Final = {
    Scene("storing", "store", "20", scenes.head): 2500,
    Scene("storing at once", "store_together", "20", scenes.head): 1100,
    Scene("storing without WAL", "store_on_network", "12", scenes.head_without_wal): 1700,
    Scene("storing after a first start", "first_store", "3"): 200,
    Scene("storing with a new key", "first_store", "3", scenes.created): 800,
    Scene("deleting", "delete", "5", scenes.stored): 1000,
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
CHANGING: Final = dict(zip(scenes.named(*_WANTED), _WANTED.values(), strict=True))


def record(scene: Scene, victim: Victim, arena: Path) -> Recording:
    """Let a process do what the scene says, unhurt, and write down how."""
    path = scenes.prepare(scene, arena / "recorded" / "source")
    live = copy_database(path, arena / "recorded" / "live")
    before = {p.name: (p.stat().st_ino, p.read_bytes()) for p in live.parent.iterdir()}
    listing = arena / "recorded" / "listing"
    result = victim.order(scene.do, live, argument=scene.argument, record=listing)
    assert result.end == "done", result
    return Recording(live.parent, before, powercut.parse(listing.read_bytes()))


def unsound(path: Path) -> str:
    """What SQLite finds wrong with a closed database; empty when nothing is."""
    with opened_copy(path) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    return "" if found == "ok" else str(found)


def broken(scene: Scene, victim: Victim, path: Path, promises: Sequence[str]) -> str:
    """What is lost of what a process had promised before its power went."""
    own_key = scene.do == "first_store"
    again = victim.restart(path, "start_with_key" if own_key else "start")
    if again.end != "done":
        return f"the next start {again.end}: {again.code} {again.message}"
    key = None if own_key else KEY
    return unsound(path) or judge.promised(path, promises, key=key)


def lay_out(disk: Disk, arena: Path) -> Path:
    """Write a state of the disk into an empty folder, and return the database's path."""
    folder = judge.clear(arena / "hurt")
    for name, content in disk.items():
        (folder / name).write_bytes(content)
    return folder / "tokens.db"


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scene", PROMISING, ids=str)
def test_a_power_cut_loses_nothing_that_was_promised(
    scene: Scene, part: int, victim: Victim, arena: Path, tally: Tally
) -> None:
    """Whenever the power goes, what was acknowledged by then is there after the next start."""
    recording = record(scene, victim, arena)
    source = chance(f"{scene} {part}")
    for cut, disk, promises in powercut.states(
        recording, amount(PROMISING[scene] // PARTS), source
    ):
        wrong = broken(scene, victim, lay_out(disk, arena), promises)
        tally.count("power cut: acknowledged writes", wrong and f"after {cut}: {wrong}")
    tally.settle()


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("scene", CHANGING, ids=str)
def test_a_power_cut_leaves_no_database_half_changed(
    scene: Scene, part: int, victim: Victim, arena: Path, tally: Tally
) -> None:
    """Whenever the power goes, the database is the old one or the new one, and starts."""
    case = judge.rehearse(scene, victim, arena)
    recording = record(scene, victim, arena)
    source = chance(f"{scene} {part}")
    for cut, disk, promises in powercut.states(recording, amount(CHANGING[scene] // PARTS), source):
        path = lay_out(disk, arena)
        names = [promise.removeprefix("backup ") for promise in promises if promise != "done"]
        wrong = judge.unchanged(case, path, only=case.new if "done" in promises else None)
        wrong = wrong or judge.backups_are_whole(case, path, promised=names)
        wrong = wrong or judge.recovers(case, path) or unsound(path)
        tally.count("power cut: half-migrated", wrong and f"after {cut}: {wrong}")
    tally.settle()
