"""SIGKILL at every file operation: the next start completes what was begun, with everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import judge, scenes
from tests.faults.harness import KILL, Victim, copy_database
from tests.faults.scenes import Scene
from tests.faults.share import share
from tests.faults.tally import Tally
from tests.support.contents import KEY


def by_name(scene: Scene) -> str:
    """The id of a scene's test."""
    return str(scene)


@pytest.mark.parametrize("scene", (*scenes.UPGRADES, *scenes.CHANGES), ids=by_name)
def test_a_killed_change_is_completed_by_the_next_start(
    scene: Scene, victim: Victim, arena: Path, tally: Tally
) -> None:
    """Killed anywhere, the file is the old one or the new one, and a start brings it to head."""
    case = judge.rehearse(scene, victim, arena)
    for at in share(range(1, case.operations + 1), str(scene)):
        path = copy_database(case.source, arena / "hurt")
        result = case.hurt(path, at, KILL)
        assert result.end == "killed", (at, result)
        wrong = case.wrong(path)
        tally.count(f"SIGKILL: {scene.do}", wrong and f"killed at {at}: {wrong}")
    tally.settle()


@pytest.mark.parametrize("scene", scenes.WRITES, ids=by_name)
def test_an_acknowledged_write_survives_a_kill(
    scene: Scene, victim: Victim, arena: Path, tally: Tally
) -> None:
    """What the store has said is stored, or deleted, is so after a kill at any operation."""
    source = scenes.prepare(scene, arena / "source")
    counted = victim.order(
        scene.do, copy_database(source, arena / "count"), argument=scene.argument
    )
    assert len(counted.acknowledged) == int(scene.argument), counted
    key = None if scene.do == "first_store" else KEY
    for at in share(range(1, counted.operations + 1), str(scene)):
        path = copy_database(source, arena / "hurt")
        result = victim.order(scene.do, path, at=at, kind=KILL, argument=scene.argument)
        assert result.end == "killed", (at, result)
        again = victim.restart(path, "start_with_key" if key is None else "start")
        wrong = again.end != "done" and f"the next start {again.end}: {again.message}"
        wrong = wrong or judge.promised(path, result.acknowledged, key=key)
        tally.count(f"SIGKILL: {scene.do}", wrong and f"killed at {at}: {wrong}")
    tally.settle()
