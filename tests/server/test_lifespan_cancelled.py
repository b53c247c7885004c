"""A lifespan that is cancelled goes on to its end: nothing stays open, or half migrated."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.lifespan import token_store_lifespan
from tests.server.helpers import KEY, is_closed, is_locked, revision, slow_migrations, wait_for


async def test_a_cancelled_close_goes_on_to_its_end(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``task.cancel()`` while it closes: the store is closed first, then the task is cancelled."""
    close = RefreshTokenStorage.close
    closing, closed = asyncio.Event(), asyncio.Event()

    async def slow(storage: RefreshTokenStorage) -> None:
        closing.set()
        await asyncio.sleep(0.05)
        await close(storage)
        closed.set()

    async def application() -> None:
        async with token_store_lifespan(database, encryption_key=KEY)(None):
            pass

    monkeypatch.setattr(RefreshTokenStorage, "close", slow)
    task = asyncio.create_task(application())
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert closed.is_set()


async def test_a_cancelled_body_closes_to_the_end(database: Path) -> None:
    """``task.cancel()``, again and again while it closes, leaves no open store and no WAL."""
    entered = asyncio.Event()
    stores: list[RefreshTokenStorage] = []

    async def application() -> None:
        async with token_store_lifespan(database, encryption_key=KEY)(None) as state:
            stores.append(state["storage"])
            await state["storage"].store_refresh_token("alice", "rt")
            entered.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(application())
    await entered.wait()
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)

    assert task.cancelled()
    assert is_closed(stores[0])
    assert not database.with_name("tokens.db-wal").exists()


async def test_a_cancelled_scope_closes_to_the_end(database: Path) -> None:
    """An anyio scope that is cancelled around it leaves no open store and no WAL."""
    with anyio.CancelScope() as scope:
        async with token_store_lifespan(database, encryption_key=KEY)(None) as state:
            storage = state["storage"]
            await storage.store_refresh_token("alice", "rt")
            scope.cancel()
            await anyio.sleep(60)

    assert scope.cancelled_caught
    assert is_closed(storage)
    assert not database.with_name("tokens.db-wal").exists()


async def test_cancelling_a_start_waits_for_its_migration(old_database: Path, head: str) -> None:
    """``task.cancel()`` during a migration: the lock is held until it is done, then it ends."""
    sign = old_database.with_name("sign")
    lifespan = token_store_lifespan(old_database, encryption_key=KEY)

    async def application() -> None:
        async with lifespan(None):
            raise AssertionError("a cancelled start must not serve")

    with slow_migrations(sign):
        task = asyncio.create_task(application())
        await asyncio.to_thread(wait_for, sign)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0.02)
        assert not task.done()
        assert await asyncio.to_thread(is_locked, old_database)
        sign.unlink()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert not is_locked(old_database)
    assert revision(old_database) == head


async def test_a_cancelled_scope_waits_for_the_migration(old_database: Path, head: str) -> None:
    """The same with an anyio scope: left only when the worker has ended."""
    sign = old_database.with_name("sign")
    held: list[bool] = []

    async def release() -> None:
        await asyncio.to_thread(wait_for, sign)
        scope.cancel()
        await asyncio.sleep(0.05)
        held.append(await asyncio.to_thread(is_locked, old_database))
        sign.unlink()

    with slow_migrations(sign):
        releasing = asyncio.create_task(release())
        with anyio.CancelScope() as scope:
            async with token_store_lifespan(old_database, encryption_key=KEY)(None):
                raise AssertionError("a cancelled start must not serve")
        await releasing

    assert scope.cancelled_caught
    assert held == [True]
    assert not is_locked(old_database)
    assert revision(old_database) == head


@pytest.mark.parametrize("way", ["task", "scope"])
async def test_cancelling_a_start_ends_its_wait_for_the_lock(old_database: Path, way: str) -> None:
    """``task.cancel()`` or an anyio scope ends the wait at once, and nothing is changed."""
    lifespan = token_store_lifespan(old_database, encryption_key=KEY)

    async def application() -> None:
        async with lifespan(None):
            raise AssertionError("a cancelled start must not serve")

    with guard(old_database, 0):
        if way == "task":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(application(), 0.1)
        else:
            with pytest.raises(TimeoutError), anyio.fail_after(0.1):
                await application()

    assert revision(old_database) == "006"
