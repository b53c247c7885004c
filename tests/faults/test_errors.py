"""A full or failing disk: success, or one clear error and the old state; never half."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import scenes
from tests.faults.harness import EIO, EIO_ONCE, ENOSPC, ENOSPC_ONCE, Victim, copy_database, spread
from tests.support.snapshot import snapshot

POINTS = 12

KINDS = {
    "no space once": ENOSPC_ONCE,
    "no space from then on": ENOSPC,
    "an I/O error once": EIO_ONCE,
    "I/O errors from then on": EIO,
}

NAMED = {"disk-full", "io-error", "backup-failed", "bad-path", "read-only", "corrupt"}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("scene", (*scenes.UPGRADES, *scenes.OTHERS), ids=lambda s: s.name)
def test_a_failing_disk_is_one_clear_error(
    scene: scenes.Scene, kind: int, victim: Victim, arena: Path
) -> None:
    """Wherever the disk fails, there is success or a named error, and the next start works."""
    source = scenes.prepare(scene, arena / "source")
    before = snapshot(source) if scene.make else None
    counted = victim.order(
        scene.do, copy_database(source, arena / "count"), argument=scene.argument
    )
    for at in spread(counted.operations, POINTS):
        path = copy_database(source, arena / "hurt")
        result = victim.order(scene.do, path, at=at, kind=kind, argument=scene.argument)
        assert result.end in {"done", "refused"}, (at, result)
        assert result.end == "done" or result.code in NAMED, (at, result)
        again = victim.order("start", path)
        assert again.end == "done", (at, result, again)
        scenes.whole(path, before, scene.base)
