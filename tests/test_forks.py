"""What a fork waits for, and the child of a fork that could not wait."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server import forks
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends import lanes
from nextcloud_mcp_server.backends.sqlite.lock import guard
from tests.support.child import ROOT, run_program
from tests.support.contents import KEY
from tests.support.forks import in_child

if TYPE_CHECKING:
    import pytest


def _open(path: Path) -> list[str]:
    """Open a store of a new database."""

    async def main() -> list[str]:
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            return await storage.list_user_ids()

    return asyncio.run(main())


@contextmanager
def _beside(block: Callable[[threading.Event, threading.Event], None]) -> Iterator[threading.Event]:
    """Run ``block`` in a thread, which has begun when this yields and may end with the event."""
    begun, may_end = threading.Event(), threading.Event()
    thread = threading.Thread(target=block, args=(begun, may_end))
    thread.start()
    begun.wait()
    try:
        yield may_end
    finally:
        may_end.set()
        thread.join()


def _delayed(begun: threading.Event, may_end: threading.Event) -> None:
    with forks.delayed, forks.delayed:
        begun.set()
        may_end.wait()


def test_a_fork_waits_for_a_block_of_another_thread(path: Path) -> None:
    """The child is made after the block, and can open a database."""
    with _beside(_delayed) as may_end:
        threading.Timer(0.3, may_end.set).start()
        begun = time.monotonic()
        assert in_child(lambda: _open(path)) == "[]"
        assert time.monotonic() >= begun + 0.3


def test_a_child_that_could_not_wait_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline the child, and its own children, are refused by name; nobody else is."""
    monkeypatch.setattr(forks, "WAIT", 0.05)
    with _beside(_delayed):
        assert in_child(lambda: _open(path)) == "forked"
        assert in_child(lambda: in_child(lambda: _open(path))) == "forked"
    assert not path.exists()
    assert _open(path) == []
    assert in_child(lambda: _open(path)) == "[]"


def test_a_fork_does_not_wait_for_a_thread_that_sleeps(path: Path) -> None:
    """A sleep inside a block lets others fork, as a start that waits for the lock does."""

    def sleep(begun: threading.Event, may_end: threading.Event) -> None:
        with forks.delayed:
            begun.set()
            while not may_end.is_set():
                forks.sleep(0.01)

    with _beside(sleep):
        begun = time.monotonic()
        assert in_child(lambda: _open(path)) == "[]"
        assert time.monotonic() < begun + forks.WAIT / 2


def test_a_fork_does_not_wait_for_a_start_that_waits(path: Path, tmp_path: Path) -> None:
    """A start that waits for the lock of another process delays no fork."""
    waiting = threading.Thread(target=_open, args=(tmp_path / "waits.db",))
    with guard(tmp_path / "waits.db", 1):
        waiting.start()
        time.sleep(0.2)
        begun = time.monotonic()
        assert in_child(lambda: _open(path)) == "[]"
        assert time.monotonic() < begun + forks.WAIT / 2
        assert waiting.is_alive()
    waiting.join()


def test_a_call_that_does_not_end_leaves_the_child_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that inherits a connection, because a call did not end in time, opens no store."""
    monkeypatch.setattr(lanes, "FORK_WAIT", 0.05)

    async def main() -> None:
        async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
            may_end = threading.Event()
            call = asyncio.ensure_future(storage._access.read(lambda _: may_end.wait()))
            await asyncio.sleep(0.1)
            child = in_child(lambda: _open(path))
            may_end.set()
            assert await call
            assert child == "forked"
            assert await storage.list_user_ids() == []

    asyncio.run(main())


_FORGOTTEN = """
import asyncio, gc, sys, threading, time, warnings
from nextcloud_mcp_server import forks
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends import lanes
from tests.support.contents import KEY
from tests.support.forks import in_child

warnings.simplefilter("ignore", ResourceWarning)
stores = []
for number in range(2):
    storage = RefreshTokenStorage(f"{sys.argv[1]}/{number}.db", encryption_key=KEY)
    asyncio.run(storage.initialize())
    asyncio.run(storage.list_user_ids())
    stores.append(storage)
kept = stores.pop(0)
del storage
held = threading.Event()

def collect():
    with kept._access._pool._writer._lock:
        held.set()
        while forks._forking is None:
            time.sleep(0.001)
        stores.clear()
        gc.collect()

thread = threading.Thread(target=collect)
thread.start()
held.wait()
print(in_child(lambda: "made"))
thread.join()
asyncio.run(kept.close())
"""


def test_a_forgotten_store_does_not_wait_for_a_fork_that_waits_for_its_collector(
    tmp_path: Path,
) -> None:
    """A thread that collects a store, and holds a lock that a fork needs, does not wait for it."""
    done = run_program(sys.executable, "-c", _FORGOTTEN, tmp_path, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("made\n", 0), done.stderr
