"""Reads and durable writes through the open store, compared with sqlite3."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.bench.harness import Clock, Pairs, Row, compare, fact, timed, undisturbed
from tests.bench.place import KEY, THEN, TOKEN, Place, user

_GET: Final = """
SELECT user_id, encrypted_token, expires_at, created_at, updated_at, flow_type, token_audience,
       provisioned_at, provisioning_client_id, scopes
FROM refresh_tokens WHERE user_id = ?
"""
_PUT: Final = """
INSERT INTO refresh_tokens (user_id, encrypted_token, expires_at, created_at, updated_at,
    flow_type, token_audience, provisioned_at, provisioning_client_id, scopes)
VALUES (?, ?, ?, ?, ?, 'hybrid', 'nextcloud', NULL, NULL, '["openid"]')
ON CONFLICT (user_id) DO UPDATE SET encrypted_token = excluded.encrypted_token,
    expires_at = excluded.expires_at, updated_at = excluded.updated_at,
    flow_type = excluded.flow_type, token_audience = excluded.token_audience,
    provisioned_at = excluded.provisioned_at,
    provisioning_client_id = excluded.provisioning_client_id, scopes = excluded.scopes
"""
_RECORD: Final = """
INSERT INTO audit_logs (timestamp, event, user_id, resource_type, resource_id, auth_method,
    hostname)
VALUES (?, 'store_refresh_token', ?, NULL, NULL, 'offline_access', 'bench')
"""

#: Fewer commits than reads, since each waits for the disk.
_PER_COMMIT: Final = 5


class Raw:
    """The same work with sqlite3 and Fernet only."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` with the pragmas that the store serves with."""
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("foreign_keys=ON", "synchronous=FULL", "secure_delete=ON"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.fernet = Fernet(KEY)
        self.encrypted = self.fernet.encrypt(TOKEN.encode())

    def get(self, who: str) -> str:
        """Read one token and decrypt it."""
        row = self.connection.execute(_GET, (who,)).fetchone()
        return self.fernet.decrypt(row[1]).decode()

    def put(self, who: str) -> None:
        """Write one encrypted token with its audit entry, and commit."""
        self._put(who, self.encrypted)

    def encrypt_and_put(self, who: str) -> None:
        """Encrypt one token, as the store does, and write it."""
        self._put(who, self.fernet.encrypt(TOKEN.encode()))

    def _put(self, who: str, encrypted: bytes) -> None:
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute(_PUT, (who, encrypted, THEN, THEN, THEN))
        execute(_RECORD, (THEN, who))
        execute("COMMIT")


class Both:
    """The store and its baseline on one database each, in one event loop."""

    def __init__(self, place: Place, rows: int, runner: asyncio.Runner) -> None:
        """Open both on databases with the same rows, each with its own encryption."""
        self.place, self.rows, self.runner = place, rows, runner
        self.raw = Raw(place.database(f"raw-{rows}", rows, released=True))
        self.storage = RefreshTokenStorage(
            place.database(f"store-{rows}", rows), encryption_key=KEY
        )
        self.thread = ThreadPoolExecutor(1)
        runner.run(self.storage.initialize())
        self._opening = count()

    def close(self) -> None:
        """Close both."""
        self.runner.run(self.storage.close())
        self.thread.shutdown()
        self.raw.connection.close()

    def who(self) -> str:
        """Return the next user."""
        return user(next(self._opening) % self.rows)

    def crowd(self) -> list[str]:
        """Return a different user for each task."""
        begun = next(self._opening) * self.place.scale.tasks
        return [user((begun + n) % self.rows) for n in range(self.place.scale.tasks)]

    def in_a_thread(self, work: Callable[[str], object], times: int) -> Clock:
        """Run ``work`` in the worker thread and await it, ``times`` times in a row."""
        loop = self.runner.get_loop()
        return self.one_task(lambda who: loop.run_in_executor(self.thread, work, who), times)

    def in_a_loop(self, work: Callable[[str], object], times: int) -> Clock:
        """Do ``work`` for ``times`` users of each task in this thread, one after the other."""
        people: list[str] = []

        def all_of_them() -> None:
            for who in people:
                work(who)

        def clock() -> float:
            people[:] = [who for _ in range(times) for who in self.crowd()]
            return timed(all_of_them)() / len(people)

        return clock

    def one_task(self, work: Callable[[str], Awaitable[object]], times: int) -> Clock:
        """Await ``work`` of the store ``times`` times in a row."""

        async def main() -> None:
            for _ in range(times):
                await work(self.who())

        return self._clock(main, times)

    def at_once(self, work: Callable[[str], Awaitable[object]], times: int) -> Clock:
        """Await ``work`` of the store in all tasks at once, ``times`` times in each."""

        async def one(people: Iterable[str]) -> None:
            for who in people:
                await work(who)

        async def main() -> None:
            each = zip(*(self.crowd() for _ in range(times)), strict=True)
            await asyncio.gather(*map(one, each))

        return self._clock(main, times * self.place.scale.tasks)

    def _clock(self, main: Callable[[], Coroutine[Any, Any, None]], times: int) -> Clock:
        async def clocked() -> float:
            begun = time.perf_counter()
            await main()
            return (time.perf_counter() - begun) / times

        def clock() -> float:
            with undisturbed():
                return self.runner.run(clocked())

        return clock

    def store(self, who: str) -> Coroutine[Any, Any, None]:
        """Store a token as the baseline does."""
        return self.storage.store_refresh_token(who, TOKEN, expires_at=THEN, scopes=["openid"])

    def get(self) -> Pairs:
        """Compare one task that reads."""
        times, get = self.place.scale.calls, self.storage.get_refresh_token
        return self._compared(self.in_a_thread(self.raw.get, times), self.one_task(get, times))

    def get_at_once(self) -> Pairs:
        """Compare many tasks that read."""
        times, get = self.place.scale.calls, self.storage.get_refresh_token
        return self._compared(self.in_a_loop(self.raw.get, times), self.at_once(get, times))

    def put(self) -> Pairs:
        """Compare one task that writes."""
        times = min(_PER_COMMIT, self.place.scale.calls)
        return self._compared(
            self.in_a_thread(self.raw.put, times), self.one_task(self.store, times)
        )

    def put_at_once(self, put: Callable[[str], object]) -> Pairs:
        """Compare many tasks that write with a baseline that does ``put``."""
        times = min(_PER_COMMIT, self.place.scale.calls)
        return self._compared(self.in_a_loop(put, times), self.at_once(self.store, times))

    def _compared(self, base: Clock, ours: Clock) -> Pairs:
        return compare(base, ours, self.place.scale.rounds, warm=self.place.scale.warm)


@contextmanager
def both(place: Place, rows: int) -> Iterator[Both]:
    """Open the store and its baseline on databases with ``rows`` rows."""
    with asyncio.Runner() as runner:
        found = Both(place, rows, runner)
        try:
            yield found
        finally:
            found.close()


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of the open store."""
    tasks = place.scale.tasks
    handed = "the same work handed to one thread and awaited"
    with both(place, place.scale.rows[1]) as pair:
        yield pair.get().judged("get a refresh token, one task", handed, 1.5)
        yield pair.get_at_once().judged(
            f"get, {tasks} tasks at once, each", "the same work in a loop in one thread, each", 2
        )
        yield pair.put().judged("durable store and audit entry, one task", handed, 1.5)
        yield pair.put_at_once(pair.raw.put).judged(
            f"durable store, {tasks} tasks at once, each",
            "a transaction each in a loop in one thread, each",
            0.35,
        )
        yield pair.put_at_once(pair.raw.encrypt_and_put).judged(
            "the same, with a baseline that encrypts, too",
            "the same, and encrypting the token",
            0.35,
        )
        yield pair.runner.run(failing(pair.storage, tasks))


async def failing(storage: RefreshTokenStorage, tasks: int) -> Row:
    """Return the figure of one failing unit of work among many."""
    expires = THEN + 10**9
    create, taken = storage.oauth_sessions.create, "a-session-id-that-is-taken"
    await create(taken, "http://localhost/", expires_at=expires)
    work: list[Coroutine[Any, Any, None]] = [
        storage.store_refresh_token(f"among-{n}", f"token-{n}") for n in range(tasks - 1)
    ]
    work.insert(tasks // 2, create(taken, "http://localhost/", expires_at=expires))
    answers = await asyncio.gather(*work, return_exceptions=True)
    failed = [answer for answer in answers if answer is not None]
    kept = [await storage.get_refresh_token(f"among-{n}") for n in range(tasks - 1)]
    whole = [token for n, token in enumerate(kept) if token and token.token == f"token-{n}"]
    alone = isinstance(failed[0], TokenStorageError) and failed[0].code == "conflict"
    return fact(
        f"a failing unit of work among {tasks}",
        f"{len(failed)} failed, {len(whole)} committed",
        f"fails alone, {tasks - 1} are committed",
        holds=alone and len(failed) == 1 and len(whole) == tasks - 1,
    )
