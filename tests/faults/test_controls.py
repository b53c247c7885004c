"""Negative controls: what the fault suite is for, done wrong, and found by it every time.

A harness that lets these pass proves nothing by letting the program pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import judge, powercut, scenes
from tests.faults.harness import EIO_ONCE, ENOSPC, KILL, Victim, copy_database
from tests.faults.judge import Case
from tests.faults.scenes import Make, Scene, of
from tests.faults.share import chance
from tests.faults.test_errors import named
from tests.faults.test_powercut import broken, lay_out, record
from tests.support import shapes

BEHIND = of(shapes.at("009", "portable"))


def careless(victim: Victim, arena: Path, do: str) -> Case:
    """A careless way from 009 to head, with the careful one as what it should come to."""
    careful = judge.rehearse(Scene("careful", "start", make=BEHIND, base="009"), victim, arena)
    scene = Scene("careless", do)
    path = copy_database(careful.source, arena / "counted")
    counted = victim.order(do, path)
    return replace(careful, scene=scene, operations=counted.operations, judged={})


def faults(case: Case, arena: Path, kind: int) -> Iterator[str]:
    """What is wrong after each fault of a kind, at operations all over the order."""
    every = range(1, case.operations + 1)
    for at in chance(case.scene.do).sample(every, len(every)):
        path = copy_database(case.source, arena / "hurt")
        result = case.hurt(path, at, kind)
        only = case.new if result.end == "done" else None
        if wrong := case.wrong(path, only=only):
            yield wrong


def test_a_commit_for_every_statement_is_found(victim: Victim, arena: Path) -> None:
    """An upgrade with a commit for every statement is killed half-way somewhere."""
    assert any(faults(careless(victim, arena, "naive"), arena, KILL))


def test_a_transition_without_its_begin_is_found(victim: Victim, arena: Path) -> None:
    """Our own upgrade without its BEGIN leaves a database between two revisions."""
    found = faults(careless(victim, arena, "without_begin"), arena, KILL)
    assert any("neither the old" in wrong for wrong in found)


@pytest.mark.parametrize("kind", [ENOSPC, EIO_ONCE])
def test_an_upgrade_that_swallows_errors_is_found(kind: int, victim: Victim, arena: Path) -> None:
    """An upgrade that logs its errors and goes on says that it is done when it is not."""
    assert any(faults(careless(victim, arena, "log_and_go_on"), arena, kind))


def test_a_file_that_is_left_open_is_found(victim: Victim, arena: Path) -> None:
    """Whoever forgets its connection on a failing disk is told from who closes it."""
    path = scenes.prepare(Scene("", "", make=scenes.head_without_wal), arena / "source")
    result = victim.order("leave_open", path, at=1, kind=EIO_ONCE)
    assert "tokens.db, open as" in named(result)


def test_a_promise_before_the_commit_is_found(victim: Victim, arena: Path) -> None:
    """A store that acknowledges before it commits loses an acknowledged token to a kill."""
    source = scenes.prepare(Scene("", "", make=scenes.head), arena / "source")
    total = victim.order(
        "early_promise", copy_database(source, arena / "hurt"), argument="3"
    ).operations
    for at in range(1, total + 1):
        path = copy_database(source, arena / "hurt")
        result = victim.order("early_promise", path, at=at, kind=KILL, argument="3")
        assert victim.restart(path).end == "done"
        if "lost" in judge.promised(path, result.acknowledged):
            return
    pytest.fail("no lost token was noticed")


def test_a_copied_file_is_found_to_be_no_backup(victim: Victim, arena: Path) -> None:
    """A copy of the file alone lacks what is in the -wal, and is told from a backup."""
    path = scenes.prepare(Scene("", "", make=scenes.head), arena / "source")
    result = victim.order("copy_as_backup", path)
    assert result.end == "done"
    assert "does not hold" in judge.promised(path, result.acknowledged)


def losses(
    victim: Victim,
    arena: Path,
    scene: Scene,
    states: int,
    verdict: Callable[[Path, list[str]], str],
) -> Iterator[str]:
    """What is wrong after power cuts of a scene."""
    recording = record(scene, victim, arena)
    for _, disk, promises in powercut.states(recording, states, chance(scene.name)):
        if wrong := verdict(lay_out(disk, arena), promises):
            yield wrong


@pytest.mark.parametrize(
    ("do", "make"),
    [("store_in_delete_mode", scenes.head_without_wal), ("store_with_normal", scenes.head)],
)
def test_a_store_that_syncs_too_little_is_found(
    do: str, make: Make, victim: Victim, arena: Path
) -> None:
    """DELETE with FULL, and WAL with NORMAL, lose acknowledged tokens in a power cut."""
    scene = Scene(do, do, "12", make)
    found = losses(victim, arena, scene, 300, lambda path, p: broken(scene, victim, path, p))
    assert any("lost" in wrong for wrong in found)


def test_an_upgrade_without_syncs_is_found(victim: Victim, arena: Path) -> None:
    """Our own upgrade with synchronous=OFF is left half-done, or damaged, by a power cut."""
    case = careless(victim, arena, "start_unsynced")
    scene = Scene("unsynced", "start_unsynced", make=BEHIND)
    assert any(losses(victim, arena, scene, 200, lambda path, _: judge.unchanged(case, path)))
