"""The pool with several event loops, and where no thread can be started: no call hangs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.errors import TokenStorageError
from tests.backends.test_pool import adding, committed, count
from tests.support.by_path import prepare
from tests.support.unprivileged import as_nobody, open_folder


def live(call: Callable[[], Awaitable[Any]]) -> Any:
    """Await ``call`` in a new loop; TimeoutError if it hangs."""

    async def main() -> Any:
        async with asyncio.timeout(20):
            return await call()

    return asyncio.run(main())


def dying(call: Callable[[], Awaitable[Any]], *, closed: bool = True) -> None:
    """Begin ``call`` in a new loop that ends in the same turn."""
    loop = asyncio.new_event_loop()

    async def begin() -> None:
        _begun.append(call())
        loop.stop()

    _begun.append(loop.create_task(begin()))
    loop.run_forever()
    if closed:
        loop.close()


#: Keeps what was begun in a loop that has ended: asyncio reports what is dropped.
_begun: list[object] = []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("ending", ["r", "w", "rr", "rw", "wwr", "rrrr"], ids="ending in {}".format)
def test_a_loop_that_ends_at_once_stops_no_other(ending: str, closed: bool, path: Path) -> None:
    """After loops that end in the turn in which they begin, every call is answered."""
    prepare(path)
    pool = SqlitePool(path, "wal")
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "r": lambda: pool.read(count),
        "w": lambda: pool.write(adding(str(len(_begun)))),
    }
    for kind in ending:
        dying(calls[kind], closed=closed)
        live(calls[kind])
        dying(calls[kind], closed=closed)
    begun = 3 * ending.count("w")
    for kind in "rw":
        live(calls[kind])
    live(pool.close)
    assert len(committed(path)) == begun + 1


def test_several_loops_share_a_pool(path: Path) -> None:
    """Six loops in six threads write and read at once; nothing is lost."""
    prepare(path)
    pool = SqlitePool(path, "wal")
    failed: list[BaseException] = []

    async def turns(number: int) -> None:
        for turn in range(40):
            assert await pool.write(adding(f"{number}-{turn}")) == 1
            await asyncio.gather(*(pool.read(count) for _ in range(3)))

    def loop(number: int) -> None:
        try:
            live(lambda: turns(number))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failed.append(error)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live(pool.close)
    assert failed == []
    assert len(committed(path)) == 240


def test_a_call_after_the_close_is_refused(path: Path) -> None:
    """A loop that calls while another has closed the pool gets an error and opens nothing."""
    prepare(path)
    pool = SqlitePool(path, "wal")
    live(lambda: pool.read(count))
    live(pool.close)
    calls: Sequence[Callable[[], Awaitable[Any]]] = (
        lambda: pool.read(count),
        lambda: pool.write(adding("late")),
    )
    for call in calls:
        with pytest.raises(TokenStorageError) as caught:
            live(call)
        assert caught.value.code == "not-open"
    assert committed(path) == set()


_NO_THREAD = """
from nextcloud_mcp_server.concurrency import run_in_own_loop

path = Path(sys.argv[1])

def allow(threads):
    resource.setrlimit(resource.RLIMIT_NPROC, (threads, hard))

_, hard = resource.getrlimit(resource.RLIMIT_NPROC)

async def codes(*calls):
    async with asyncio.timeout(20):
        found = await asyncio.gather(*calls, return_exceptions=True)
    print(*(getattr(each, "code", repr(each)) for each in found))

async def main():
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    allow(0)
    await codes(storage.initialize())
    allow(hard)
    await codes(storage.initialize())
    allow(0)
    await codes(storage.list_user_ids(), storage.list_user_ids(), storage.list_user_ids())
    await codes(storage.store_refresh_token("a", "t"), storage.store_refresh_token("b", "t"))
    await codes(asyncio.create_task(in_a_loop()))
    allow(hard)
    await codes(storage.store_refresh_token("a", "t"))
    await codes(storage.list_user_ids())
    allow(0)
    # The threads that are there still answer.
    await codes(storage.list_user_ids())
    await codes(storage.store_refresh_token("b", "t"))
    await codes(storage.close())
    if sys.argv[2] == "left open":
        allow(hard)
        await codes(storage.initialize())
        allow(0)
        await codes(storage.list_user_ids())

async def in_a_loop():
    run_in_own_loop(lambda: None)

asyncio.run(main())
if sys.argv[2] != "left open":
    print(sorted(os.listdir(path.parent)))
"""


@pytest.mark.parametrize("end", ["closed", "left open"])
def test_no_thread_can_be_started(end: str) -> None:
    """Every caller gets ``no-thread``, and the next call works once threads are to be had."""
    with open_folder() as folder:
        own = folder / "own"
        own.mkdir()
        own.chmod(0o777)
        answers = as_nobody(_NO_THREAD, own / "tokens.db", end).splitlines()
    expected = [
        "no-thread",
        "None",
        "no-thread no-thread no-thread",
        "no-thread no-thread",
        "no-thread",
        "None",
        "['a']",
        "['a']",
        "None",
        "None",
    ]
    if end == "left open":
        expected += ["None", "no-thread"]
    else:
        expected += ["['tokens.db', 'tokens.db.inuse', 'tokens.db.lock']"]
    assert answers == expected


def test_a_program_that_ends_while_its_threads_work(path: Path) -> None:
    """The exit of the interpreter waits for the running units, and prints no traceback."""
    prepare(path)
    program = f"""
import asyncio, time
from pathlib import Path
from sqlalchemy import text
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool

def slowly(connection):
    connection.run(text("INSERT INTO browser_sessions VALUES ('slow', 'u', 1, 2)"))
    time.sleep(0.3)

async def main():
    pools = [SqlitePool(Path({str(path)!r}), "wal") for _ in range(2)]
    pools[0].write(slowly)
    await asyncio.sleep(0.1)
    for pool in pools:
        pool.read(lambda connection: time.sleep(0.2))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert committed(path) == {"slow"}


def test_a_close_ends_beside_a_turn_that_has_not_ended(path: Path) -> None:
    """A close that waits for a long unit starts no thread for a loop whose turn ends meanwhile."""
    prepare(path)
    pool = SqlitePool(path, "wal")
    begun, added, finish = threading.Event(), threading.Event(), threading.Event()
    results: list[object] = []

    def long(_: object) -> str:
        begun.set()
        assert finish.wait(20)
        return "long"

    async def add_and_block() -> Any:
        answer = pool.read(count)
        added.set()
        # The turn ends after the close has begun.
        finish.wait(0.3)
        return await answer

    def close() -> None:
        live(pool.close)
        results.append("closed")

    def start(target: Callable[[], object], after: threading.Event) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        assert after.wait(20)
        return thread

    threads = [
        start(lambda: results.append(live(lambda: pool.read(long))), begun),
        start(lambda: results.append(live(add_and_block)), added),
        start(close, added),
    ]
    threads[1].join(0.5)
    finish.set()
    for thread in threads:
        thread.join(10)
    assert {"long", 0, "closed"} == set(results)
