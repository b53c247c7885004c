"""Stores that nobody closed: garbage collection ends their threads, and warns."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.in_use import in_use
from tests.cli.places import rows
from tests.support.child import run_python
from tests.support.contents import KEY


def _threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("token-store")}


def _open_files(path: Path) -> list[str]:
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH118, PTH208
    return [p for link in links if (p := os.path.realpath(link)).startswith(str(path))]


async def _closed(path: Path) -> None:
    """Wait until no thread and no file of the store is left."""
    deadline = time.monotonic() + 10
    while (_threads() or _open_files(path)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert (_threads(), _open_files(path), in_use(path)) == (set(), [], False)


def _collected(forget: Callable[[], object]) -> list[str]:
    """Return the warnings of ResourceWarning of a garbage collection."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        forget()
        gc.collect()
    assert {warning.category for warning in caught} <= {ResourceWarning}
    return [str(warning.message) for warning in caught]


async def _used(path: Path, number: int) -> RefreshTokenStorage:
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    await storage.initialize()
    if number % 3:
        await storage.list_user_ids()
    if number % 3 == 2:
        await storage.store_refresh_token(f"user-{number}", "secret")
    return storage


async def test_forgotten_stores_leave_nothing_behind(path: Path) -> None:
    """30 stores, unused, read and written, leave no thread, no file, and a warning each."""
    stores = [await _used(path, number) for number in range(30)]
    assert len(_threads()) >= 2
    warned = _collected(stores.clear)
    assert warned == [f"the token store {path} was never closed"] * 30
    assert _threads() == set()
    assert _open_files(path) == []
    assert not in_use(path)
    assert rows(path, "SELECT count(*) FROM refresh_tokens") == [(10,)]


async def test_a_closed_store_warns_of_nothing(path: Path) -> None:
    """A store that was closed is collected without a word, also if it was opened twice."""
    stores = [await _used(path, 2) for _ in range(2)]
    for storage in stores:
        await storage.close()
    await stores[0].initialize()
    await stores[0].close()
    del storage
    assert _collected(stores.clear) == []


async def test_a_concern_keeps_the_store_open(path: Path) -> None:
    """The store stays open as long as one of its concerns is used."""
    storage = await _used(path, 2)
    stores, audit = [storage], storage.audit
    del storage
    assert _collected(stores.clear) == []
    assert await audit.list()
    concerns = [audit]
    del audit
    assert len(_collected(concerns.clear)) == 1


async def test_a_store_that_is_forgotten_while_it_writes(path: Path) -> None:
    """What waits is committed before the connections are closed."""
    stores = [await _used(path, 1)]
    task = asyncio.ensure_future(stores[0].store_refresh_token("late", "secret"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stores.clear()
        gc.collect()
        # Perhaps only the end of the write frees the store, in the thread that writes.
        await _closed(path)
    assert len(caught) == 1
    assert rows(path, "SELECT user_id FROM refresh_tokens") == [("late",)]


async def test_collected_in_a_thread_of_the_store(path: Path) -> None:
    """A collection may run in any thread, that of the store too, and ends all the same."""
    stores = [await _used(path, 2)]
    access = stores[0]._access
    pool = access._pool
    assert pool is not None
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        await pool.write(lambda _: pool.abandon())
    del access
    await _closed(path)
    await stores[0].close()


_AT_EXIT = """
import asyncio, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    storage = RefreshTokenStorage(sys.argv[1], encryption_key=sys.argv[2])
    await storage.initialize()
    await storage.store_refresh_token("alice", "secret")
    return storage

storage = asyncio.run(main())
"""


def test_a_store_that_is_open_at_exit_is_closed(path: Path) -> None:
    """At the end of the process it is closed as before: no -wal stays, and nothing is printed."""
    assert run_python(_AT_EXIT, path, KEY) == ""
    assert not path.with_name("tokens.db-wal").exists()
