"""A restore over a file that is no database any more: killed anywhere, and done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import judge, scenes
from tests.faults.harness import KILL, Victim, copy_database
from tests.faults.scenes import SAVED, Scene, with_saved
from tests.faults.share import share
from tests.faults.tally import Tally
from tests.support.snapshot import snapshot

GARBAGE = b"no database any more" * 5_000


def _garbage(path: Path) -> None:
    path.write_bytes(GARBAGE)
    path.with_name(path.name + "-wal").write_bytes(GARBAGE)


def _wrong(path: Path, victim: Victim) -> str:
    """What is wrong with what a kill has left, and with a second restore."""
    saved = judge.digest(snapshot(path.with_name(SAVED)))
    if not path.exists():
        return "there is a moment without a file"
    raw = path.read_bytes()
    if raw != GARBAGE and judge.digest(snapshot(path)) != saved:
        return "it is neither the old file nor the restored one"
    again = victim.order("restore", path, argument=SAVED)
    if again.end != "done":
        return f"the second restore {again.end}: {again.code} {again.message}"
    if judge.digest(snapshot(path)) != saved:
        return "the second restore did not restore"
    kept = [p.read_bytes() for p in path.parent.glob("tokens.db.damaged-*Z")]
    return "" if GARBAGE in kept else "what it replaced is not kept"


def test_a_killed_restore_over_damage_is_done_again(
    victim: Victim, arena: Path, tally: Tally
) -> None:
    """The file is the damaged one or the restored one, and never missing; both end restored."""
    source = scenes.prepare(Scene("", "", make=with_saved(_garbage)), arena / "source")
    counted = victim.order("restore", copy_database(source, arena / "count"), argument=SAVED)
    assert counted.end == "done", counted
    for at in share(range(1, counted.operations + 1), "a restore over damage"):
        path = copy_database(source, arena / "hurt")
        result = victim.order("restore", path, at=at, kind=KILL, argument=SAVED)
        assert result.end == "killed", (at, result)
        wrong = _wrong(path, victim)
        tally.count("SIGKILL: restore", wrong and f"killed at {at}: {wrong}")
    tally.settle()


def test_a_restore_by_copying_is_found(victim: Victim, arena: Path) -> None:
    """Negative control: `cp` over the file leaves half of one and half of the other."""
    scene = Scene("careful", "restore", SAVED, with_saved(scenes.head), "010", keeps=False)
    case = judge.rehearse(scene, victim, arena)
    scene = replace(scene, do="restore_by_copying")
    counted = victim.order(scene.do, copy_database(case.source, arena / "count"), argument=SAVED)
    case = replace(case, scene=scene, operations=counted.operations, judged={})
    for at in range(1, case.operations + 1):
        path = copy_database(case.source, arena / "hurt")
        case.hurt(path, at, KILL)
        if case.wrong(path):
            return
    pytest.fail("no half-restored database was noticed")
