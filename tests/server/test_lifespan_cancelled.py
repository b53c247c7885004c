"""A cancelled lifespan always ends its work: the store is closed, and a migration finished."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.lifespan import token_store_lifespan
from nextcloud_mcp_server.migrate import run
from tests.server.helpers import is_closed, is_locked, revision
from tests.support.contents import KEY


async def test_a_cancelled_body_closes_to_the_end(database: Path) -> None:
    """``task.cancel()``, repeated while it closes, leaves no open store and no WAL."""
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


async def test_cancelling_a_start_waits_for_its_migration(
    old_database: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After ``task.cancel()`` during a migration the lock is held until the migration has ended."""
    begun, may_end = threading.Event(), threading.Event()
    migrate = run.migrate

    def slowly(*arguments: Any, **options: Any) -> Path | None:
        begun.set()
        assert may_end.wait(30)
        return migrate(*arguments, **options)

    async def application() -> None:
        async with token_store_lifespan(old_database, encryption_key=KEY)(None):
            raise AssertionError("a cancelled start must not serve")

    monkeypatch.setattr(run, "migrate", slowly)
    task = asyncio.create_task(application())
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)
    assert not task.done()
    assert await asyncio.to_thread(is_locked, old_database)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not is_locked(old_database)
    assert revision(old_database) == head


async def test_cancelling_a_start_ends_its_wait_for_the_lock(old_database: Path) -> None:
    """A timeout around the start stops the wait at once, and nothing is changed."""
    lifespan = token_store_lifespan(old_database, encryption_key=KEY)

    async def application() -> None:
        async with lifespan(None):
            raise AssertionError("a cancelled start must not serve")

    with guard(old_database, 0), pytest.raises(TimeoutError), anyio.fail_after(0.1):
        await application()

    assert revision(old_database) == "006"
