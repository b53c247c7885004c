"""One store for several event loops, threads and forked processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.support.by_path import prepare
from tests.support.contents import KEY
from tests.support.errors import refuses
from tests.support.forks import in_child
from tests.support.unprivileged import as_nobody, open_folder


def run(call: Callable[[], Awaitable[Any]]) -> Any:
    """Await the result of ``call`` in a new event loop."""

    async def main() -> Any:
        async with asyncio.timeout(20):
            return await call()

    return asyncio.run(main())


def in_threads(*calls: Callable[[], None]) -> None:
    """Call each in a thread, and wait for them."""
    threads = [threading.Thread(target=call, daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.fixture
def storage(path: Path) -> Iterator[RefreshTokenStorage]:
    """Return an open storage with one user."""
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    run(storage.initialize)
    run(lambda: storage.store_refresh_token("alice", "token"))
    yield storage
    run(storage.close)


@pytest.mark.parametrize("migrated", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_four_threads_open_it(shared: bool, migrated: bool, path: Path) -> None:
    """Four threads, each with a loop, open one storage or four: each returns, and can use it."""
    if migrated:
        prepare(path)
    count = 1 if shared else 4
    storages = [RefreshTokenStorage(path, encryption_key=KEY) for _ in range(count)] * (4 // count)
    barrier = threading.Barrier(4)
    results: list[object] = []

    def open_and_use(storage: RefreshTokenStorage, number: int) -> None:
        barrier.wait(20)
        try:
            run(storage.initialize)
            run(lambda: storage.store_refresh_token(f"user-{number}", "token"))
            results.append(run(lambda: storage.get_refresh_token(f"user-{number}")).token)
        except BaseException as error:  # noqa: BLE001 - compared below
            results.append(error)

    in_threads(*(partial(open_and_use, storage, n) for n, storage in enumerate(storages)))
    assert results == ["token"] * 4
    for storage in storages:
        run(storage.close)


def test_threads_open_and_close_it_in_turns(path: Path) -> None:
    """Four threads that open, use and close one storage get a result or ``not-open``."""
    prepare(path)
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    results: list[object] = []

    def turns() -> None:
        for _ in range(5):
            try:
                run(storage.initialize)
                results.append(run(storage.list_user_ids))
                run(storage.close)
            except TokenStorageError as error:
                results.append(error.code)

    in_threads(*[turns] * 4)
    assert len(results) == 20
    assert all(result in ([], "not-open") for result in results)
    run(storage.close)


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.get_refresh_token("alice"),
        lambda s: s.store_refresh_token("bob", "token"),
        lambda s: s.audit.list(),
    ],
    ids=["read", "write", "audit"],
)
def test_a_child_cannot_use_the_parents_store(
    call: Callable[[RefreshTokenStorage], Awaitable[Any]], storage: RefreshTokenStorage
) -> None:
    """Any call on a store that was opened before the fork fails at once with ``forked``."""
    assert in_child(lambda: run(lambda: call(storage))) == "forked"
    assert run(storage.list_user_ids) == ["alice"]


def test_a_child_opens_the_storage_again(storage: RefreshTokenStorage) -> None:
    """initialize() in a child opens a store of its own, and the parent keeps its own."""

    async def use() -> list[str]:
        await storage.initialize()
        await storage.store_refresh_token("child", "token")
        users = await storage.list_user_ids()
        await storage.close()
        return users

    assert in_child(lambda: run(use)) == "['alice', 'child']"
    assert run(storage.list_user_ids) == ["alice", "child"]
    run(lambda: storage.store_refresh_token("parent", "token"))


def test_a_child_opens_a_new_storage(path: Path, storage: RefreshTokenStorage) -> None:
    """Another storage on the same file works in a child; closing the inherited one is harmless."""

    async def use() -> list[str]:
        async with RefreshTokenStorage(path, encryption_key=KEY) as own:
            await storage.close()
            await own.store_refresh_token("child", "token")
            return await own.list_user_ids()

    assert in_child(lambda: run(use)) == "['alice', 'child']"
    assert run(storage.list_user_ids) == ["alice", "child"]


def test_a_child_forked_during_a_start(path: Path) -> None:
    """A storage that another thread is opening can be opened in a child."""
    prepare(path)
    storage = RefreshTokenStorage(path, encryption_key=KEY)

    async def main() -> str:
        with await storage._opening.acquire():
            return await asyncio.to_thread(in_child, lambda: run(use))

    async def use() -> list[str]:
        async with storage:
            return await storage.list_user_ids()

    assert asyncio.run(main()) == "[]"


_shared: RefreshTokenStorage | None = None


def _in_a_worker(user: str) -> str:
    assert _shared is not None
    storage = _shared
    try:
        run(lambda: storage.get_refresh_token(user))
    except TokenStorageError as error:
        run(storage.initialize)
        return f"{error.code}, then {run(storage.list_user_ids)}"
    return "used"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_workers_of_a_process_pool(
    storage: RefreshTokenStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked workers of a ProcessPoolExecutor get the named error, and can open it again."""
    monkeypatch.setattr("tests.auth.test_storage_shared._shared", storage)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as workers:
        answers = [workers.submit(_in_a_worker, "alice").result(30) for _ in range(1)]
    assert answers == ["forked, then ['alice']"]
    run(lambda: storage.store_refresh_token("bob", "token"))


_FEW_THREADS = """
path = Path(sys.argv[1])
_, hard = resource.getrlimit(resource.RLIMIT_NPROC)

async def open_and_use(threads):
    storage = RefreshTokenStorage(path.with_name(f"{threads}.db"), encryption_key=KEY)
    resource.setrlimit(resource.RLIMIT_NPROC, (threads, hard))
    try:
        async with asyncio.timeout(20), storage:
            await storage.store_refresh_token("alice", "token")
    except TokenStorageError as error:
        print(error.code)
    else:
        print("used")
    resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
    async with asyncio.timeout(20), storage:
        await storage.store_refresh_token("alice", "token")

for threads in range(6):
    asyncio.run(open_and_use(threads))
"""


def test_a_start_with_few_threads() -> None:
    """A start that gets fewer threads than it needs says so, and the next one works."""
    with open_folder() as folder:
        (own := folder / "own").mkdir()
        own.chmod(0o777)
        answers = as_nobody(_FEW_THREADS, own / "tokens.db").split()
    assert len(answers) == 6
    assert answers[0] == "no-thread"
    assert set(answers) <= {"no-thread", "used"}


@pytest.mark.parametrize("step", ["initialize", "close"])
def test_a_loop_that_was_closed_holds_up_nobody(step: str, path: Path) -> None:
    """Its task never ends, so the next call works in another loop."""
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    first = asyncio.new_event_loop()
    if step == "close":
        first.run_until_complete(storage.initialize())
    task = first.create_task(getattr(storage, step)())
    first.call_soon(first.stop)
    first.run_forever()
    first.close()

    async def again() -> None:
        async with storage:
            await storage.store_refresh_token("alice", "secret")

    asyncio.run(asyncio.wait_for(again(), 30))
    # asyncio logs a pending task that is collected.
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_loop_that_was_stopped_is_named(path: Path) -> None:
    """It may run again, so nothing is taken from it; the other calls get an error."""
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    first = asyncio.new_event_loop()
    task = first.create_task(storage.initialize())
    first.call_soon(first.stop)
    first.run_forever()
    with refuses("interrupted", "event loop"):
        asyncio.run(storage.close())
    first.run_until_complete(task)
    first.run_until_complete(storage.close())
    first.close()
