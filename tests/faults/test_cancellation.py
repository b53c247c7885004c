"""A lifespan cancelled at every await and at every step of its worker leaves nothing open."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.inspect import inspect_file
from nextcloud_mcp_server.backends.sqlite.integrity import check_pages
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.lifespan import token_store_lifespan
from nextcloud_mcp_server.migrations import upgrade_database
from tests.faults import scenarios
from tests.faults.cancellation import CancelledRun, is_locked
from tests.faults.injection import copy_database
from tests.faults.trials import SEED, Trials, sample, seeded
from tests.support.contents import KEY
from tests.support.invariants import complete_at_head, secrets_in
from tests.support.snapshot import Snapshot, snapshot

#: The number of calls in the worker at which a start is cancelled.
POINTS = 60

#: By how many calls two runs differ at most: how often a waiting thread looks depends on time.
FEW = 30

WAYS = ("task", "scope")

SCENARIOS = {name: scenarios.BEGINNINGS[name] for name in ("fresh", "pre-Alembic", "current")}

pytestmark = pytest.mark.usefixtures("quiet")


class Lifespan:
    """Opens the store, writes, and closes; it records the acknowledged writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, str] = {}

    async def __call__(self) -> None:
        """Run once."""
        async with token_store_lifespan(self.path, encryption_key=KEY)(None) as state:
            storage = state["storage"]
            for user in ("late-1", "late-2"):
                await self._store(storage, user)
            # Three that share a commit, and a cancellation.
            await asyncio.gather(*(self._store(storage, f"late-{n}") for n in (3, 4, 5)))
            for user, token in self.kept.items():
                found = await storage.get_refresh_token(user)
                assert found is not None
                assert found.token == token
            # If it is cancelled from here on, the deletion may or may not be committed.
            del self.kept["late-2"]
            await storage.delete_refresh_token("late-2")

    async def _store(self, storage: RefreshTokenStorage, user: str) -> None:
        await storage.store_refresh_token(user, f"token of {user}")
        self.kept[user] = f"token of {user}"


def _source(scenario: str, workspace: Path) -> tuple[Path, Snapshot | None]:
    path = scenarios.prepare(SCENARIOS[scenario], workspace / "source")
    if scenario == "current":
        upgrade_database(path)
        for backup in path.parent.glob("*.backup-*"):
            backup.unlink()
    return path, snapshot(path) if path.exists() else None


async def _tokens(path: Path, users: list[str]) -> dict[str, str]:
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        found = {user: await storage.get_refresh_token(user) for user in users}
    return {user: token.token for user, token in found.items() if token}


def _check(trial: CancelledRun, life: Lifespan, before: Snapshot | None) -> None:
    """Check that nothing is wrong and that the next start has every acknowledged write."""
    at = f"seed {SEED}: {trial}"
    assert trial.wrong == [], at
    # After the last await there is nothing to cancel.
    at_its_end = trial.turn > 0 and trial.turn + 3 >= trial.turns
    may = {"cancelled"} if trial.struck else {"finished"}
    assert trial.ended in may | ({"finished"} if at_its_end else set()), at
    assert asyncio.run(_tokens(life.path, [*life.kept])) == life.kept, at
    after = snapshot(life.path)
    complete_at_head(after)
    if before is not None:
        assert secrets_in(before, KEY).items() <= secrets_in(after, KEY).items(), at


def _trial(
    source: Path,
    workspace: Path,
    before: Snapshot | None,
    way: str,
    *,
    turn: int = 0,
    call: int = 0,
) -> CancelledRun:
    """Run and check a lifespan on a copy of ``source``, cancelled at ``turn`` or ``call``."""
    life = Lifespan(copy_database(source, workspace / "faulty"))
    trial = CancelledRun(life.path, way, turn=turn, call=call).run(life)
    _check(trial, life, before)
    return trial


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_lifespan_may_be_cancelled_at_every_turn(
    scenario: str, way: str, workspace: Path, trials: Trials
) -> None:
    """Cancelled at any await of its start, its writes and its end, it leaves nothing open."""
    source, before = _source(scenario, workspace)
    reference = _trial(source, workspace, before, way)
    assert reference.turns > 20, reference
    # After the start all scenarios are the same, and the current file is the fastest.
    step = 1 if scenario == "current" else 10
    turns = [*range(1, 10), *range(10, reference.turns + 1, step)]
    chosen = sample(turns, f"{scenario} {way}")
    struck = sum(_trial(source, workspace, before, way, turn=turn).struck for turn in chosen)
    trials.count("cancelled at a turn of the loop", times=len(chosen))
    assert struck > 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_cancelled_start_outlives_its_worker(
    scenario: str, way: str, workspace: Path, trials: Trials
) -> None:
    """Cancelled at any step of its worker, it ends after it and keeps the lock until then."""
    source, before = _source(scenario, workspace)
    # The first run makes some calls that no later one makes.
    _trial(source, workspace, before, way)
    reference = _trial(source, workspace, before, way)
    assert reference.calls > POINTS, reference
    first = [*range(1, POINTS // 2)]
    others = seeded(f"{scenario} {way}").sample(range(POINTS // 2, reference.calls), POINTS // 2)
    for call in sample([*first, *others], f"calls {scenario} {way}"):
        trial = _trial(source, workspace, before, way, call=call)
        if not trial.struck and trial.calls < call < trial.calls + FEW:
            continue  # it ended before that call
        assert trial.struck, trial
        trials.count("cancelled at a step of the worker")


@pytest.mark.parametrize("way", WAYS)
def test_a_start_that_waits_may_be_cancelled(way: str, workspace: Path, trials: Trials) -> None:
    """Cancelled while another process holds the lock, it ends at once without a change."""
    source, _ = _source("pre-Alembic", workspace)
    # The loop iterates once before the wait; then only the worker runs.
    for turn, call in sample([(2, 0), *((0, call) for call in range(1, 12))], f"waiting {way}"):
        life = Lifespan(copy_database(source, workspace / "faulty"))
        before = life.path.read_bytes()
        with guard(life.path, 0):
            trial = CancelledRun(life.path, way, turn=turn, call=call, locked=True).run(life)
            assert (trial.struck, trial.ended, trial.wrong) == (True, "cancelled", []), trial
            assert is_locked(life.path)
        assert life.path.read_bytes() == before
        _check(_trial(source, workspace, None, way), life, None)
        trials.count("cancelled while it waits for the lock")


class NotWaiting(Lifespan):
    """Negative control: a start that does not wait for its worker."""

    async def __call__(self) -> None:
        """Take the lock here and work in a thread."""
        with guard(self.path, 10):
            await asyncio.to_thread(self._work)

    def _work(self) -> None:
        inspect_file(self.path)
        check_pages(self.path)


@pytest.mark.parametrize("way", WAYS)
def test_the_harness_detects_a_worker_that_is_not_waited_for(way: str, workspace: Path) -> None:
    """Negative control: with a bare ``to_thread``, the lock is free while the worker runs."""
    source, _ = _source("current", workspace)
    life = NotWaiting(copy_database(source, workspace / "faulty"))
    trial = CancelledRun(life.path, way, call=3).run(life)
    assert "it ended before its worker" in trial.wrong
    assert "the lock was free while the worker ran" in trial.wrong
