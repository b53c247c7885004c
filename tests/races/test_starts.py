"""Sixteen processes start at once on one database: all of them start, one migrates."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrations import upgrade_database
from tests.support import shapes
from tests.support.contents import KEY

ROOT = Path(__file__).parents[2]
PROCESSES = 16
ROUNDS = 10

Crowd = list["subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    """Sixteen processes that have imported everything and wait."""
    with ExitStack() as stack:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.races.starter"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(PROCESSES)
        ]
        for process in processes:
            stack.enter_context(process)
            assert _answer(process) == {"ready": True}
        yield processes
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def _race(crowd: Crowd, path: Path) -> list[dict[str, Any]]:
    for process in crowd:
        assert process.stdin is not None
        process.stdin.write(json.dumps({"path": str(path), "key": KEY}) + "\n")
    for process in crowd:
        assert process.stdin is not None
        process.stdin.flush()
    return [_answer(process) for process in crowd]


def _fresh(_path: Path) -> None:
    """Leave the place empty."""


def _current(path: Path) -> None:
    upgrade_database(path)


MAKERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fresh": (_fresh, "create"),
    "pre-Alembic": (lambda path: shapes.at("001").unversioned().write(path), "stamp"),
    "old": (lambda path: shapes.at("005").write(path), "upgrade"),
    "current": (_current, "nothing"),
}


@pytest.mark.parametrize(("make", "action"), MAKERS.values(), ids=MAKERS.keys())
def test_every_start_succeeds_and_one_migrates(
    make: Callable[[Path], None], action: str, crowd: Crowd, tmp_path: Path
) -> None:
    """In ten rounds of sixteen starts, none fails, one does the work and all see the same users."""
    for number in range(ROUNDS):
        path = tmp_path / f"{number}.db"
        make(path)
        answers = _race(crowd, path)
        assert [answer["error"] for answer in answers if "error" in answer] == []
        actions = sorted(answer["action"] for answer in answers)
        idle = PROCESSES if action == "nothing" else PROCESSES - 1
        assert actions.count("nothing") == idle
        assert actions.count(action) == (PROCESSES if action == "nothing" else 1)
        assert len({tuple(answer["users"]) for answer in answers}) == 1


async def test_two_stores_in_one_process_start_at_once(tmp_path: Path) -> None:
    """Two stores in one event loop start on one old file: one migrates, both serve."""
    path = tmp_path / "tokens.db"
    shapes.at("003").write(path)
    stores = [RefreshTokenStorage(path, encryption_key=KEY) for _ in range(2)]
    await asyncio.gather(*(store.initialize() for store in stores))
    actions = [store.outcome.action for store in stores if store.outcome]
    users = [await store.list_user_ids() for store in stores]
    for store in stores:
        await store.close()
    assert sorted(actions) == [Action.NOTHING, Action.UPGRADE]
    assert users[0] == users[1] != []


async def test_different_databases_migrate_at_once(tmp_path: Path) -> None:
    """Eight databases are upgraded at once in one process, although Alembic has one context."""
    paths = [tmp_path / f"{number}.db" for number in range(8)]
    for path in paths:
        shapes.at("002").write(path)
    stores = [RefreshTokenStorage(path, encryption_key=KEY) for path in paths]
    await asyncio.gather(*(store.initialize() for store in stores))
    outcomes = [store.outcome for store in stores]
    for store in stores:
        await store.close()
    assert [outcome.action for outcome in outcomes if outcome] == [Action.UPGRADE] * 8
