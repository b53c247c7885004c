"""A standby is opened for reading, and takes writes once it is promoted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate.startup import prepare
from tests.support.contents import KEY
from tests.support.errors import refuses
from tests.support.postgresql import Server, following, running


@pytest.fixture
def primary() -> Iterator[Server]:
    """A server that has a standby."""
    with running() as server:
        yield server


async def test_a_standby_is_read_and_after_its_promotion_written(primary: Server) -> None:
    """A write says ``read-only``; after the promotion it works, and the store was never closed."""
    async with RefreshTokenStorage(primary.url(), encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
    with following(primary) as standby:
        empty = connect(standby.url("template1"))
        with refuses("read-only"):
            prepare(empty)
        async with RefreshTokenStorage(standby.url(), encryption_key=KEY) as storage:
            assert storage.outcome is not None
            assert (storage.outcome.action, storage.outcome.read_only) == (
                "nothing",
                "the server is a standby",
            )
            found = await storage.get_refresh_token("alice")
            assert found is not None
            assert found.token == "token"
            for _ in range(2):
                with refuses("read-only"):
                    await storage.store_refresh_token("bob", "token")
            standby.promote()
            await storage.store_refresh_token("bob", "token")
            assert await storage.list_user_ids() == ["alice", "bob"]


@pytest.mark.parametrize("wanted", ["read-write", "primary"])
def test_a_start_during_a_failover_waits_for_the_promotion(primary: Server, wanted: str) -> None:
    """None of the hosts takes writes yet, and that is no reason to give up."""
    prepare(connect(primary.url()))
    with following(primary) as standby:
        primary.stop()
        hosts = f"host={primary.folder},{standby.folder}&target_session_attrs={wanted}"
        database = connect(f"postgresql://postgres@/postgres?{hosts}")
        with refuses("unreachable"):
            prepare(database, lock_timeout=0.2)
        promotion = threading.Timer(1, standby.promote)
        promotion.start()
        try:
            outcome = prepare(database, lock_timeout=30)
        finally:
            promotion.join()
    assert (outcome.action, outcome.read_only) == ("nothing", "")


async def test_a_connection_that_became_read_only_is_renewed(postgresql_server: Server) -> None:
    """A connection of the time when the server took no write is not used for ever."""
    name = postgresql_server.database()
    async with RefreshTokenStorage(postgresql_server.url(name), encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
        setting = f"ALTER DATABASE {name} SET default_transaction_read_only"
        postgresql_server.execute(f"{setting} = on")
        _end_connections(postgresql_server, name)
        with refuses("read-only"):
            await storage.store_refresh_token("bob", "token")
        postgresql_server.execute(f"{setting} = off")
        begun = time.monotonic()
        await storage.store_refresh_token("bob", "token")
        assert time.monotonic() - begun < 5
        assert await storage.list_user_ids() == ["alice", "bob"]


def _end_connections(server: Server, database: str) -> None:
    server.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    )
