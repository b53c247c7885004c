"""Starts of many processes at once on a server: exactly one migrates."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress

import psycopg
import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.postgresql.locked import lock_key
from nextcloud_mcp_server.migrate.startup import prepare
from tests.faults.server_process import Starter
from tests.faults.servers import contents, database_behind
from tests.faults.trials import Trials, scaled
from tests.support.contents import KEY
from tests.support.pgbouncer import PgBouncer, pooled
from tests.support.postgresql import OLDER, Server, running

PROCESSES = 8
ROUNDS = 20


@pytest.fixture(scope="module", params=["18", "16", "PgBouncer", "PgBouncer of four"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Server, PgBouncer | None]]:
    """A server, and a pooler before it, or None."""
    with ExitStack() as stack:
        server = stack.enter_context(running(OLDER if request.param == "16" else 18))
        pooler = None
        if request.param.startswith("PgBouncer"):
            # With four connections half of the processes wait for the pooler.
            size = 4 if request.param.endswith("four") else 20
            pooler = stack.enter_context(pooled(server, size=size))
        yield server, pooler


@pytest.fixture(scope="module")
def starter() -> Iterator[Starter]:
    """A process that forks starts."""
    with closing(Starter()) as starter:
        yield starter


@pytest.mark.parametrize("beginning", ["empty", "behind"])
def test_of_eight_processes_one_migrates(
    beginning: str, place: tuple[Server, PgBouncer | None], starter: Starter, trials: Trials
) -> None:
    """The others wait for it, find head and do nothing."""
    server, pooler = place
    template = database_behind(server) if beginning == "behind" else "template1"
    name = server.database(template)
    prepare(connect(server.url(name)))
    after = contents(server, name)
    action = "upgrade" if beginning == "behind" else "create"
    for _ in range(scaled(ROUNDS)):
        name = server.database(template)
        done = starter.race((pooler or server).url(name), PROCESSES)
        wrong = ""
        if Counter(done) != {action: 1, "nothing": PROCESSES - 1}:
            wrong = str(done)
        elif contents(server, name) != after:
            wrong = "the result is another one"
        trials.count(f"PostgreSQL: rounds of {PROCESSES} processes", wrong)
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    trials.check()


@pytest.fixture(scope="module")
def small() -> Iterator[tuple[Server, PgBouncer]]:
    """A pooler with four connections for a database."""
    with running() as server, pooled(server, size=4) as pooler:
        yield server, pooler


async def _seconds_of_reads(storage: RefreshTokenStorage) -> float:
    begun = time.monotonic()
    async with asyncio.timeout(5):
        for _ in range(10):
            await asyncio.gather(*(storage.get_refresh_token("alice") for _ in range(8)))
    return time.monotonic() - begun


async def test_who_waits_for_the_lock_starves_nobody(small: tuple[Server, PgBouncer]) -> None:
    """While one holds the lock and six wait, behind four connections, reads go on."""
    server, pooler = small
    url = pooler.url(server.database())
    ends = threading.Event()
    waited = []

    def wait() -> None:
        with suppress(Exception), connect(url).lock(30, ends.is_set):
            pass
        waited.append(ends.is_set())

    async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
        with connect(url).lock(5):
            threads = [threading.Thread(target=wait) for _ in range(6)]
            for thread in threads:
                thread.start()
            await asyncio.sleep(0.5)
            seconds = await _seconds_of_reads(storage)
            ends.set()
            for thread in threads:
                await asyncio.to_thread(thread.join)
    assert waited == [True] * 6
    assert seconds < 3


async def test_waiters_that_block_starve_every_read(small: tuple[Server, PgBouncer]) -> None:
    """Negative control: three that wait in the server, and the holder, use the four connections."""
    server, pooler = small
    name = server.database()
    url, key = pooler.url(name), lock_key("public")

    def block() -> None:
        with suppress(psycopg.Error), psycopg.connect(url) as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [key])

    async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
        threads = [threading.Thread(target=block) for _ in range(3)]
        with connect(url).lock(5):
            for thread in threads:
                thread.start()
            await asyncio.sleep(0.5)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await _seconds_of_reads(storage)
        for thread in threads:
            await asyncio.to_thread(thread.join)
        await _seconds_of_reads(storage)
