"""Concurrent starts on one database: all of them succeed and exactly one migrates."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.migrate.plan import Action
from tests.faults import scenarios
from tests.faults.programs import Ended, Invocation, ProgramServer
from tests.faults.scenarios import BEGINNINGS
from tests.faults.trials import SEED, SHARE, Trials, seeded
from tests.support import shapes
from tests.support.contents import KEY
from tests.support.snapshot import snapshot

PROCESSES = 32 if SHARE >= 1 else 16
ROUNDS = 5 if SHARE >= 1 else 1

#: Seconds that all processes of a round may take, each waiting for the others.
PATIENCE = 60.0


def _invocations(path: Path, *, fresh: bool, name: str) -> list[Invocation]:
    environ = {"TOKEN_STORAGE_DB": str(path), "TOKEN_ENCRYPTION_KEY": KEY}
    kinds = (
        ("run", "--port", "0"),
        ("db", "upgrade"),
        ("alembic", "-x", f"database_url={path}", "upgrade", "head"),
        # A database that does not exist yet cannot be backed up.
        *(() if fresh else (("db", "backup"),)),
    )
    chosen = [Invocation(kinds[n % len(kinds)], environ=environ) for n in range(PROCESSES)]
    seeded(name).shuffle(chosen)
    return chosen


def _has_migrated(ended: Ended) -> bool:
    lines = ended.output.splitlines()
    if ended.invocation.arguments[0] == "alembic":
        return any("Running upgrade" in line for line in lines)
    return any(line.startswith(("created ", "stamped ", "upgraded ")) for line in lines)


def _journal(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        [(number,)] = connection.execute("SELECT count(*) FROM migration_journal")
        return int(number)


def _prepare(beginning: str, folder: Path, programs: ProgramServer) -> Path:
    path = scenarios.prepare(BEGINNINGS[beginning], folder)
    if beginning == "current":
        [ended] = programs.run([Invocation(("db", "upgrade", "-d", str(path)))])
        assert ended.status == 0, ended
    return path


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_concurrent_programs_succeed_and_one_migrates(
    beginning: str, number: int, programs: ProgramServer, tmp_path: Path, trials: Trials
) -> None:
    """Servers, upgrades, backups and Alembic itself all succeed, and one of them migrates."""
    path = _prepare(beginning, tmp_path, programs)
    before = snapshot(path) if path.exists() else None
    journal = _journal(path) if beginning == "current" else 0
    invocations = _invocations(path, fresh=before is None, name=f"{beginning} {number}")
    ended = programs.run(invocations, PATIENCE)
    trials.count("concurrent processes", times=len(ended))
    failed = [one for one in ended if one.status != 0 or "Traceback" in one.output]
    told = [(one.invocation.arguments, one.output) for one in failed]
    assert not failed, f"seed {SEED}, round {number}: {told}"
    migrations = [one for one in ended if _has_migrated(one)]
    assert len(migrations) == (0 if beginning == "current" else 1), f"seed {SEED}"
    assert _journal(path) - journal == len(migrations), migrations
    scenarios.assert_complete(path, before, BEGINNINGS[beginning].base)


def test_a_start_without_the_lock_is_detected(programs: ProgramServer, tmp_path: Path) -> None:
    """Negative control: without the lock some programs fail, or several migrate."""
    path = scenarios.prepare(BEGINNINGS["old"], tmp_path)
    unlocked = Invocation(("unlocked", "db", "upgrade", "-d", str(path)))
    ended = programs.run([unlocked] * 12, PATIENCE)
    good = [one for one in ended if one.status == 0]
    assert len(good) < len(ended) or sum(map(_has_migrated, ended)) > 1


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
