"""A pooler in transaction mode between the program and the server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate.startup import prepare
from tests.support.contents import KEY
from tests.support.pgbouncer import PgBouncer, pooled
from tests.support.postgresql import Server, running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that is stopped and started."""
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def pooler(server: Server) -> Iterator[PgBouncer]:
    """A pooler with few connections that soon tries again."""
    with pooled(server, size=4, retry=1) as pooler:
        yield pooler


async def test_a_store_behind_a_pooler_serves(server: Server, pooler: PgBouncer) -> None:
    """64 tasks share 4 connections; nothing is prepared that another client would miss."""
    async with RefreshTokenStorage(pooler.url(server.database()), encryption_key=KEY) as storage:
        for _ in range(3):
            users = [f"user-{number}" for number in range(64)]
            await asyncio.gather(*(storage.store_refresh_token(u, f"token of {u}") for u in users))
            found = await asyncio.gather(*map(storage.get_refresh_token, users))
            assert [one and one.token for one in found] == [f"token of {u}" for u in users]


@pytest.mark.parametrize("before", ["new", "at head"])
def test_a_start_waits_for_a_server_behind_a_pooler(
    before: str, server: Server, pooler: PgBouncer, caplog: pytest.LogCaptureFixture
) -> None:
    """The pooler answers for a server that is away, and the start goes on when it is back."""
    database = connect(pooler.url(server.database()))
    if before == "at head":
        prepare(database)
    server.stop("immediate")
    # Now the pooler knows.
    server_is_back = threading.Timer(2.5, server.start)
    server_is_back.start()
    begun = time.monotonic()
    try:
        outcome = prepare(database, lock_timeout=30)
    finally:
        server_is_back.join()
    assert outcome.action == ("nothing" if before == "at head" else "create")
    assert 2 < time.monotonic() - begun < 20


async def test_a_store_goes_on_when_the_pooler_is_started_again(
    server: Server, pooler: PgBouncer
) -> None:
    """Every connection is lost at once, and opened again."""
    async with RefreshTokenStorage(pooler.url(server.database()), encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "one")
        pooler.stop()
        back = threading.Timer(0.5, pooler.start)
        back.start()
        await asyncio.gather(*(storage.store_refresh_token("alice", "two") for _ in range(16)))
        back.join()
        found = await storage.get_refresh_token("alice")
        assert found is not None
        assert found.token == "two"
