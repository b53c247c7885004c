"""A full or failing disk: success, or one clear error and the old state; never half."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.faults import judge, scenes
from tests.faults.harness import EIO, EIO_ONCE, ENOSPC, ENOSPC_ONCE, Result, Victim, copy_database
from tests.faults.scenes import Scene
from tests.faults.share import share
from tests.faults.tally import Tally
from tests.faults.test_kill import by_name
from tests.support.contents import KEY

KINDS: Final = {
    "no space once": ENOSPC_ONCE,
    "no space from then on": ENOSPC,
    "an I/O error once": EIO_ONCE,
    "I/O errors from then on": EIO,
}

NAMED: Final = {"disk-full", "io-error", "backup-failed", "bad-path", "read-only", "corrupt"}


def named(result: Result) -> str:
    """What is wrong with how an order ended; empty for success and for one clear error.

    Neither leaves a file open, or a thread, in the process that goes on.
    """
    if result.left:
        return f"it left {', '.join(result.left)}"
    if result.end == "done":
        return ""
    clear = result.end == "refused" and result.code in NAMED and "\n" not in result.message
    return "" if clear else f"it {result.end}: {result.code} {result.message}"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("scene", scenes.TYPICAL, ids=by_name)
def test_a_failing_disk_is_one_clear_error(
    scene: Scene, kind: int, victim: Victim, arena: Path, tally: Tally
) -> None:
    """Wherever the disk fails, there is success or a named error, and the next start works.

    An error leaves the old database; or the new one, where it came after the commit, when the
    journal was switched to WAL or something was cleared away. Those are counted by themselves.
    """
    case = judge.rehearse(scene, victim, arena)
    for at in share(range(1, case.operations + 1), f"{scene} {kind}"):
        path = copy_database(case.source, arena / "hurt")
        result = case.hurt(path, at, kind)
        late = result.end == "refused" and case.left(path) == case.new != case.old
        only = case.new if result.end == "done" else None
        wrong = named(result) or case.wrong(path, only=only)
        kind_of_trial = "ENOSPC and EIO" + (": an error after the commit" if late else "")
        tally.count(kind_of_trial, wrong and f"at {at}, {result}: {wrong}")
    tally.settle()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("scene", scenes.WRITES, ids=by_name)
def test_a_failing_disk_breaks_no_promise(
    scene: Scene, kind: int, victim: Victim, arena: Path, tally: Tally
) -> None:
    """A store on a failing disk fails by name, and what it had acknowledged is kept."""
    source = scenes.prepare(scene, arena / "source")
    counted = victim.order(
        scene.do, copy_database(source, arena / "count"), argument=scene.argument
    )
    key = None if scene.do == "first_store" else KEY
    for at in share(range(1, counted.operations + 1), f"{scene} {kind}"):
        path = copy_database(source, arena / "hurt")
        result = victim.order(scene.do, path, at=at, kind=kind, argument=scene.argument)
        wrong = named(result)
        again = victim.restart(path, "start_with_key" if key is None else "start")
        if again.end != "done":
            wrong = wrong or f"the next start {again.end}: {again.message}"
        else:
            wrong = wrong or judge.promised(path, result.acknowledged, key=key)
        tally.count("ENOSPC and EIO", wrong and f"at {at}, {result}: {wrong}")
    tally.settle()
