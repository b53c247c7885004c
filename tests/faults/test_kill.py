"""SIGKILL at file operations: the next start completes what was begun, with everything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.migrations import upgrade_database
from tests.faults import scenes
from tests.faults.harness import KILL, Victim, copy_database, spread
from tests.faults.victim import KEY
from tests.support import shapes
from tests.support.snapshot import snapshot

#: Crash points of each scene, evenly spread over all its file operations.
POINTS = 24


@pytest.mark.parametrize("scene", (*scenes.UPGRADES, *scenes.OTHERS), ids=lambda s: s.name)
def test_a_killed_change_is_completed_by_the_next_start(
    scene: scenes.Scene, victim: Victim, arena: Path
) -> None:
    """Killed anywhere, the file is the old one or the new one, and a start brings it to head."""
    source = scenes.prepare(scene, arena / "source")
    before = snapshot(source) if scene.make else None
    rehearsal = victim.order(
        scene.do, copy_database(source, arena / "count"), argument=scene.argument
    )
    assert rehearsal.end == "done", rehearsal
    for at in spread(rehearsal.operations, POINTS):
        path = copy_database(source, arena / "hurt")
        result = victim.order(scene.do, path, at=at, kind=KILL, argument=scene.argument)
        assert result.end == "killed"
        again = victim.order("start", path)
        assert again.end == "done", (at, again)
        scenes.whole(path, before, scene.base)


def test_an_upgrade_survives_sixty_crash_points(victim: Victim, arena: Path) -> None:
    """The narrowest file in the field, killed at sixty places of its way to head, loses nothing."""
    scene = scenes.UPGRADES[1]
    source = scenes.prepare(scene, arena / "source")
    before = snapshot(source)
    total = victim.order("start", copy_database(source, arena / "count")).operations
    assert total >= 60
    for at in spread(total, 60):
        path = copy_database(source, arena / "hurt")
        assert victim.order("start", path, at=at, kind=KILL).end == "killed"
        assert victim.order("start", path).end == "done", at
        scenes.whole(path, before, "001")


def test_the_harness_tells_a_careless_upgrade(victim: Victim, arena: Path) -> None:
    """Negative control: an upgrade with a commit per statement is left half-done somewhere."""
    source = arena / "source" / "tokens.db"
    source.parent.mkdir()
    shapes.at("001").write(source)
    total = victim.order("naive", copy_database(source, arena / "count")).operations
    half = 0
    for at in range(1, total + 1):
        path = copy_database(source, arena / "hurt")
        assert victim.order("naive", path, at=at, kind=KILL).end == "killed"
        made = {name for name in snapshot(path).rows if name.startswith("step_")}
        half += 0 < len(made) < 8
    assert half > 0


@pytest.mark.parametrize("do", ["store", "delete"])
def test_an_acknowledged_write_survives_a_kill(do: str, victim: Victim, arena: Path) -> None:
    """What the store has said is stored, or deleted, is so after a kill at any operation."""
    source = arena / "source" / "tokens.db"
    source.parent.mkdir()
    upgrade_database(source)
    if do == "delete":
        assert victim.order("store", source, argument="5").end == "done"
    total = victim.order(do, copy_database(source, arena / "count"), argument="5").operations
    for at in spread(total, POINTS):
        path = copy_database(source, arena / "hurt")
        result = victim.order(do, path, at=at, kind=KILL, argument="5")
        assert result.end == "killed"
        there = asyncio.run(_users(path))
        acknowledged = set(result.acknowledged)
        assert acknowledged <= there if do == "store" else not acknowledged & there


async def _users(path: Path) -> set[str]:
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        users = await storage.list_user_ids()
        for user in users:
            token = await storage.get_refresh_token(user)
            assert token is not None
            assert token.token == user.replace("user", "token")
        return set(users)
