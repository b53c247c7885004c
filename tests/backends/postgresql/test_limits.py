"""A server that gives no answer, or is away: every wait for it has an end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import func, select

from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.postgresql.connect import Server as Place
from nextcloud_mcp_server.backends.postgresql.limits import Limits
from nextcloud_mcp_server.backends.postgresql.pool import PostgresPool
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.schema.tables import audit_logs
from tests.support.errors import refuses
from tests.support.forks import in_child
from tests.support.postgresql import Server
from tests.support.proxy import Proxy, proxied

_COUNT = select(func.count()).select_from(audit_logs)
_INSERT = audit_logs.insert().values(user_id="alice", event="stored", timestamp=1)


def _number(connection: Connection) -> int:
    row = connection.first(_COUNT)
    assert row is not None
    return int(row[0])


def _write(connection: Connection) -> int:
    return connection.run(_INSERT)


@pytest.fixture
def proxy(postgresql_server: Server) -> Iterator[Proxy]:
    """A proxy before the server."""
    with proxied(postgresql_server.folder / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.fixture
def url(postgresql_server: Server, proxy: Proxy) -> str:
    """The URL of a schema at head, through the proxy."""
    name, url = postgresql_server.schema()
    prepare(connect(url))
    address = f"postgres@127.0.0.1:{proxy.port}/postgres"
    return f"postgresql://{address}?connect_timeout=2&options=-csearch_path%3D{name}"


def _pool(url: str, limits: Limits) -> PostgresPool:
    return PostgresPool(Place(ServerUrl(url)), limits)


@pytest.mark.parametrize("statement", [b"SELECT", b"INSERT", b"COMMIT\0"])
async def test_a_statement_without_an_answer_is_cut(
    url: str, proxy: Proxy, statement: bytes
) -> None:
    """A server that hangs closes no connection: a unit fails after the limit, and names why."""
    pool = _pool(url, Limits(retry=1))
    await pool.read(_number)
    proxy.on_request = lambda data: "hold" if statement in data else "pass"
    begun = time.monotonic()
    code = "outcome-unknown" if b"COMMIT" in statement else "unreachable"
    with refuses(code):
        await (pool.read(_number) if statement == b"SELECT" else pool.write(_write))
    assert time.monotonic() - begun < 4
    proxy.on_request = lambda _: "pass"
    assert await pool.read(_number) == 0
    await pool.close()


async def test_a_statement_after_the_other_is_not_cut(url: str) -> None:
    """The limit is for one statement: a unit of many may take longer."""
    pool = _pool(url, Limits(retry=1))

    def many(connection: Connection) -> None:
        for _ in range(8):
            connection.run(_INSERT)
            time.sleep(0.25)

    await pool.write(many)
    assert await pool.read(_number) == 8
    await pool.close()


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_a_close_during_an_outage_ends_soon(url: str, proxy: Proxy, how: str) -> None:
    """The units that wait get some seconds together, not each."""
    pool = _pool(url, Limits(closing=0.5))
    await pool.read(_number)
    if how == "refuses":
        proxy.refuses = True
        proxy.cut()
    else:
        proxy.on_request = lambda _: "hold"
    waiting = [asyncio.ensure_future(pool.write(_write)) for _ in range(64)]
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    await pool.close()
    assert time.monotonic() - begun < 12
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert {getattr(result, "code", result) for result in results} == {"unreachable"}
    with refuses("not-open"):
        await pool.read(_number)


async def test_a_pool_that_is_forgotten_during_an_outage_blocks_nobody(
    url: str, proxy: Proxy
) -> None:
    """The garbage collector goes on at once, and every thread ends."""
    before = set(threading.enumerate())
    pool = _pool(url, Limits(closing=0.5))
    await pool.read(_number)
    proxy.on_request = lambda _: "hold"
    waiting = asyncio.ensure_future(pool.write(_write))
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    with pytest.warns(ResourceWarning, match="was never closed"):
        pool.abandon()
    assert time.monotonic() - begun < 1
    with refuses("unreachable"):
        await waiting
    ours = {t for t in set(threading.enumerate()) - before if t.name.startswith("token-store")}
    for thread in ours:
        await asyncio.to_thread(thread.join, 10)
    assert not any(thread.is_alive() for thread in ours)


def test_a_start_at_a_server_without_an_answer_ends(url: str, proxy: Proxy) -> None:
    """A pooler accepts a client whose server is away; the start waits until its deadline."""
    proxy.on_request = lambda data: "hold" if data[:1] == b"Q" else "pass"
    begun = time.monotonic()
    with refuses("unreachable", match="does not answer"):
        prepare(connect(url), lock_timeout=0.5)
    assert time.monotonic() - begun < 15


def _read_in_child(pool: PostgresPool) -> str:
    async def read() -> int:
        return await pool.read(_number)

    def run() -> int:
        # The child inherits the loop that is running here.
        asyncio._set_running_loop(None)
        return asyncio.run(read())

    return in_child(run)


async def test_a_forked_child_is_refused_and_the_parent_goes_on(url: str) -> None:
    """The child gets ``forked``; the connections of the parent are opened again by itself."""
    pool = _pool(url, Limits())
    await asyncio.gather(*(pool.write(_write) for _ in range(20)))

    assert _read_in_child(pool) == "forked"
    assert await pool.read(_number) == 20
    await pool.write(_write)
    assert await pool.read(_number) == 21
    await pool.close()


async def test_a_child_of_a_busy_parent_is_refused_too(url: str) -> None:
    """A unit that is running at the fork is committed by the parent, once."""
    pool = _pool(url, Limits())
    runs, may_end = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        connection.run(_INSERT)
        runs.set()
        may_end.wait(20)

    task = asyncio.ensure_future(pool.write(slow))
    await asyncio.to_thread(runs.wait, 10)

    assert _read_in_child(pool) == "forked"
    may_end.set()
    await task
    assert await pool.read(_number) == 1
    await pool.close()


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_fork_beside_a_start_that_waits(url: str, proxy: Proxy, how: str) -> None:
    """A start that waits for its server delays no fork by another thread."""
    proxy.refuses = how == "refuses"
    proxy.on_request = lambda data: "hold" if data[:1] == b"Q" else "pass"
    stops = threading.Event()

    def start() -> None:
        with pytest.raises(TokenStorageError):
            prepare(connect(url), lock_timeout=20, cancelled=stops.is_set)

    thread = threading.Thread(target=start)
    thread.start()
    try:
        time.sleep(0.5)
        begun = time.monotonic()
        assert in_child(lambda: "a child") == "a child"
        assert time.monotonic() - begun < 4
    finally:
        stops.set()
        thread.join()
