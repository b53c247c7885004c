"""Reads and durable writes on a server of PostgreSQL, compared with psycopg's own pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import count
from typing import Any, Final

import psycopg
from cryptography.fernet import Fernet
from psycopg_pool import AsyncConnectionPool

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate.startup import prepare
from tests.bench import starts
from tests.bench.harness import Clock, Row, compare, environment, timed, undisturbed
from tests.bench.place import KEY, THEN, TOKEN, Place, encrypted, user
from tests.bench.table import cores
from tests.support.child import Child
from tests.support.postgresql import Server, running

_GET: Final = """
SELECT user_id, encrypted_token, expires_at, created_at, updated_at, flow_type, token_audience,
       provisioned_at, provisioning_client_id, scopes
FROM refresh_tokens WHERE user_id = %s
"""
_PUT: Final = """
INSERT INTO refresh_tokens (user_id, encrypted_token, expires_at, created_at, updated_at,
    flow_type, token_audience, provisioned_at, provisioning_client_id, scopes)
VALUES (%s, %s, %s, %s, %s, 'hybrid', 'nextcloud', NULL, NULL, '["openid"]')
ON CONFLICT (user_id) DO UPDATE SET encrypted_token = excluded.encrypted_token,
    expires_at = excluded.expires_at, updated_at = excluded.updated_at,
    flow_type = excluded.flow_type, token_audience = excluded.token_audience,
    provisioned_at = excluded.provisioned_at,
    provisioning_client_id = excluded.provisioning_client_id, scopes = excluded.scopes
"""
_RECORD: Final = """
INSERT INTO audit_logs (timestamp, event, user_id, resource_type, resource_id, auth_method,
    hostname)
VALUES (%s, 'store_refresh_token', %s, NULL, NULL, 'offline_access', 'bench')
"""

#: The connections of each.
_SIZE: Final = 8

#: How many processes at once.
PROCESSES: Final = (2, 4)

#: How many calls each task makes in one round.
_CALLS: Final = 20


class Raw:
    """The same work with psycopg's AsyncConnectionPool and Fernet only."""

    def __init__(self, url: str) -> None:
        """Take the URL; the pool is opened later, in its loop."""
        self.fernet = Fernet(KEY)
        self.pool = AsyncConnectionPool(url, min_size=_SIZE, max_size=_SIZE, open=False)

    async def get(self, who: str) -> str:
        """Read one token and decrypt it."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(_GET, (who,))
            row = await cursor.fetchone()
        assert row is not None
        return self.fernet.decrypt(row[1]).decode()

    async def put(self, who: str) -> None:
        """Encrypt and write one token with its audit entry, and commit."""
        async with self.pool.connection() as connection:
            encrypted = self.fernet.encrypt(TOKEN.encode())
            await connection.execute(_PUT, (who, encrypted, THEN, THEN, THEN))
            await connection.execute(_RECORD, (THEN, who))


class Both:
    """The store and its baseline on a schema each, in one event loop."""

    def __init__(self, server: Server, runner: asyncio.Runner, rows: int) -> None:
        """Open both on schemas with the same rows."""
        self.runner, self.rows, self._number = runner, rows, count()
        urls = [self._filled(server, released=released) for released in (True, False)]
        self.urls = urls
        self.raw, self.storage = Raw(urls[0]), ours(urls[1])
        runner.run(self.raw.pool.open(wait=True))
        runner.run(self.storage.initialize())

    def _filled(self, server: Server, *, released: bool) -> str:
        _, url = server.schema()
        prepare(connect(url))
        if not released:
            self.runner.run(register(url))
        token = Fernet(KEY).encrypt(TOKEN.encode())
        with closing(psycopg.connect(url)) as connection:
            with connection.cursor().copy(
                "COPY refresh_tokens (user_id, encrypted_token, created_at, updated_at) FROM STDIN"
            ) as copy:
                for number in range(self.rows):
                    who = user(number)
                    copy.write_row((who, token if released else encrypted(who), THEN, THEN))
            connection.commit()
        return url

    def close(self) -> None:
        """Close both."""
        self.runner.run(self.storage.close())
        self.runner.run(self.raw.pool.close())

    def clock(self, work: Callable[[str], Awaitable[object]], tasks: int) -> Clock:
        """Return a clock around calls of ``tasks`` tasks, for the seconds of one call."""
        calls = max(1, _CALLS * 8 // tasks) if tasks > 1 else _CALLS * 4

        async def one(begin: int) -> None:
            for number in range(calls):
                await work(user((begin + number) % self.rows))

        async def main() -> float:
            begun = time.perf_counter()
            await asyncio.gather(*(one(next(self._number) * 97) for _ in range(tasks)))
            return (time.perf_counter() - begun) / (tasks * calls)

        def clock() -> float:
            with undisturbed():
                return self.runner.run(main())

        return clock


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of a store on a server that waits for the disk."""
    rounds, warm = place.scale.rounds, place.scale.warm
    settings = {"fsync": "on", "synchronous_commit": "on", "shared_buffers": "128MB"}
    with running(settings=settings) as server, asyncio.Runner() as runner:
        both = Both(server, runner, place.scale.rows[0])
        try:
            for tasks in (1, 8, 64):
                limit, many = (1.5, "one task") if tasks == 1 else (1.1, f"{tasks} tasks, each")
                for what, base, own in (
                    ("get", both.raw.get, both.storage.get_refresh_token),
                    ("durable store and audit entry", both.raw.put, partial(store, both.storage)),
                ):
                    pairs = compare(
                        both.clock(base, tasks), both.clock(own, tasks), rounds, warm=warm
                    )
                    yield pairs.judged(
                        f"PostgreSQL: {what}, {many}",
                        "the same work through psycopg's AsyncConnectionPool",
                        limit,
                    )
        finally:
            both.close()
        yield from _processes(place, both.urls)
        yield _start(server, place)
        number, processors = place.scale.starts // 2, cores()
        yield starts.crowd(place, both.urls[1], number).judged(
            f"PostgreSQL: {number} starts at once at head",
            f"one start; {processors} cores, so 1.5 x {number} / {processors} of it",
            1.5 * number / min(processors, number),
        )


#: Opens both in a process, and with each line of input does the work of one until the end.
WORKER: Final = """
import asyncio, sys
from tests.bench.server import Raw, ours, store
from tests.bench.place import user

async def main(raw_url, own_url, rows):
    raw, storage = Raw(raw_url), ours(own_url)
    await raw.pool.open(wait=True)
    await storage.initialize()
    works = {"raw-get": raw.get, "raw-put": raw.put,
             "ours-get": storage.get_refresh_token, "ours-put": lambda who: store(storage, who)}
    async def one(work, begin, calls):
        for number in range(calls):
            await work(user((begin + number) % int(rows)))
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        work, tasks, calls = works[line[0]], int(line[1]), int(line[2])
        await asyncio.gather(*(one(work, n, calls) for n in range(tasks)))
        print("done", flush=True)
    await storage.close()
    await raw.pool.close()

asyncio.run(main(*sys.argv[1:]))
"""


def _processes(place: Place, urls: Sequence[str]) -> Iterator[Row]:
    """Yield the figures of several processes with 64 tasks each."""
    tasks = place.scale.tasks
    workers = [
        Child(WORKER, *urls, place.scale.rows[0], environ=environment())
        for _ in range(max(PROCESSES))
    ]
    try:
        for number in PROCESSES:
            some = workers[:number]
            for what, order in (
                ("get", f"get {tasks} 20"),
                ("durable store and audit entry", f"put {tasks} 5"),
            ):
                yield compare(
                    _telling(some, f"raw-{order}"),
                    _telling(some, f"ours-{order}"),
                    place.scale.rounds,
                    warm=place.scale.warm,
                ).judged(
                    f"PostgreSQL: {what}, {number} processes with {tasks} tasks, all their calls",
                    "the same work through psycopg's AsyncConnectionPool",
                    1.1,
                )
    finally:
        for worker in workers:
            worker.kill()


def _telling(workers: Sequence[Child], order: str) -> Clock:
    """Return a clock around an order to several processes, until all have done it."""

    def clock() -> float:
        begun = time.perf_counter()
        for worker in workers:
            worker.tell(order)
        for worker in workers:
            worker.answer()
        return time.perf_counter() - begun

    return clock


def ours(url: str) -> RefreshTokenStorage:
    """Return the store of a URL."""
    return RefreshTokenStorage(url, encryption_key=KEY)


async def register(url: str) -> None:
    """Register the key: the first secret does."""
    async with ours(url) as storage:
        await store(storage, "first")
        await storage.delete_refresh_token("first")


def store(storage: RefreshTokenStorage, who: str) -> Coroutine[Any, Any, None]:
    """Store a token as the baseline does."""
    return storage.store_refresh_token(who, TOKEN, expires_at=THEN, scopes=["openid"])


def _start(server: Server, place: Place) -> Row:
    """Return the figure of a start at head: a connection, one transaction."""
    _, url = server.schema()
    prepare(connect(url))

    def look() -> None:
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute("SELECT version_num FROM alembic_version").fetchall()

    pairs = compare(
        timed(look, 5), timed(lambda: prepare(connect(url)), 5), place.scale.rounds, warm=1
    )
    return pairs.judged("PostgreSQL: a start at head", "connect, one query, close", 4)
