"""A store under 64 tasks while its server fails: nothing acknowledged is lost or wrong."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final, NoReturn

import psycopg
import pytest
from sqlalchemy import bindparam

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.tables import audit_logs
from tests.faults.trials import Trials, sample_of_tests, scaled
from tests.support.contents import KEY
from tests.support.pgbouncer import pooled
from tests.support.postgresql import Server, following, free_port, running
from tests.support.proxy import Proxy, proxied

TASKS: Final = 64

#: A server that waits for the disk, as a real one.
_DURABLE: Final = {"fsync": "on", "max_connections": "60"}

#: A unit that must not run twice.
_ENTRY = audit_logs.insert().values(user_id=bindparam("entry"), event="load", timestamp=1)


class Load:
    """What the tasks have done.

    Attributes:
        tokens: what was acknowledged, by user.
        entries: what was acknowledged of what must not run twice.
        unknown: what was reported as unknown.
        wrong: the problems.
        reads: how many answers were compared.
    """

    def __init__(self, storage: RefreshTokenStorage) -> None:
        self._storage = storage
        self._ends = False
        self.tokens: dict[str, str] = {}
        self.entries: set[str] = set()
        self.unknown: set[str] = set()
        self.wrong: list[str] = []
        self.reads = 0

    async def run(self, disturb: Callable[[], object]) -> None:
        """Work until ``disturb`` has returned."""
        clients = [asyncio.ensure_future(self._client(task)) for task in range(TASKS)]
        try:
            await asyncio.to_thread(disturb)
        finally:
            self._ends = True
            await asyncio.gather(*clients)

    async def _client(self, task: int) -> None:
        for number in itertools.count():
            if self._ends:
                return
            try:
                await self._store(f"user-{task}", f"token {number}")
                await self._add(f"{task}-{number}")
            except TokenStorageError as error:
                self.wrong.append(f"{error.code}: {error.message}")
                return

    async def _store(self, user: str, token: str) -> None:
        await self._storage.store_refresh_token(user, token)
        self.tokens[user] = token
        found = await self._storage.get_refresh_token(user)
        self.reads += 1
        if found is None or found.token != token:
            self.wrong.append(f"{user} was answered with {found and found.token}, not {token}")

    async def _add(self, entry: str) -> None:
        pool = self._storage._access._pool
        assert pool is not None
        try:
            await pool.write(lambda connection: connection.run(_ENTRY, {"entry": entry}))
        except TokenStorageError as error:
            if error.code != "outcome-unknown":
                raise
            self.unknown.add(entry)
        else:
            self.entries.add(entry)

    async def check(self, server: Server, database: str) -> None:
        """Compare what was acknowledged with what is there."""
        rows = server.execute(
            "SELECT user_id FROM audit_logs WHERE event = 'load'", database=database
        )
        there = Counter(user for (user,) in rows)
        self.wrong += [f"{entry} is lost" for entry in self.entries - there.keys()]
        self.wrong += [f"{entry} is there twice" for entry, n in there.items() if n > 1]
        told = self.entries | self.unknown
        self.wrong += [f"{entry} was never told" for entry in there.keys() - told]
        for user, token in self.tokens.items():
            found = await self._storage.get_refresh_token(user)
            if found is None or found.token != token:
                self.wrong.append(f"{user} has {found and found.token}, not {token}")


class Stage:
    """What the disturbances act on.

    Attributes:
        stack: closes everything.
        server: the server.
        url: of the database for the store.
        disturb: called while the tasks work; several times.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.server = stack.enter_context(running(settings=_DURABLE))
        self.database = self.server.database()
        self.url = self.server.url(self.database)
        self.disturb: Callable[[], object] = lambda: None

    def through(self) -> Proxy:
        """Put a proxy before the server."""
        proxy = self.stack.enter_context(proxied(self.server.folder / ".s.PGSQL.5432"))
        self.url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{self.database}"
        return proxy


def _restarted(stage: Stage) -> None:
    def restart() -> None:
        stage.server.stop("fast")
        stage.server.start()

    stage.disturb = restart


def _killed(stage: Stage) -> None:
    def kill() -> None:
        stage.server.kill()
        stage.server.start()

    stage.disturb = kill


def _cut(stage: Stage) -> None:
    stage.disturb = stage.through().cut


def _delayed(stage: Stage) -> None:
    proxy = stage.through()

    def delay() -> None:
        for proxy.delay in (0.2, 0.05, 0.0):
            time.sleep(0.5)
            proxy.cut()

    stage.disturb = delay


def _pooler_restarted(stage: Stage) -> None:
    pooler = stage.stack.enter_context(pooled(stage.server))
    stage.url = pooler.url(stage.database)

    def restart() -> None:
        pooler.stop(signal.SIGKILL)
        pooler.start()

    stage.disturb = restart


def _behind_pooler(stage: Stage) -> None:
    pooler = stage.stack.enter_context(pooled(stage.server))
    stage.url = pooler.url(stage.database)

    def restart() -> None:
        stage.server.stop("immediate")
        # Long enough for the pooler to find it away: it refuses logins for 15 seconds then.
        time.sleep(1)
        stage.server.start()
        _wait_for(stage.url)

    stage.disturb = restart


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SELECT 1")
                return
        except psycopg.Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


_DISTURBANCES: Final = {
    "the server restarted": _restarted,
    "the postmaster killed": _killed,
    "connections cut": _cut,
    "connections delayed and cut": _delayed,
    "PgBouncer restarted": _pooler_restarted,
    "the server restarted behind PgBouncer": _behind_pooler,
}


@contextmanager
def _stage(name: str) -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(stack)
        _DISTURBANCES[name](stage)
        yield stage


@pytest.mark.parametrize("name", sample_of_tests(tuple(_DISTURBANCES), "server load"))
async def test_a_failing_server_loses_nothing_and_answers_nothing_wrong(
    name: str, trials: Trials
) -> None:
    """What was acknowledged is there, each read is right, and no other doubt is hidden."""
    with _stage(name) as stage:
        async with RefreshTokenStorage(stage.url, encryption_key=KEY) as storage:
            load = Load(storage)

            def disturb() -> None:
                for _ in range(scaled(10)):
                    time.sleep(0.7)
                    stage.disturb()
                time.sleep(0.7)

            await load.run(disturb)
            await load.check(stage.server, stage.database)
    acknowledged = len(load.entries) + load.reads
    assert acknowledged > TASKS
    trials.count(f"PostgreSQL: acknowledged, {name}", times=acknowledged)
    if load.unknown:
        trials.count(f"PostgreSQL: unknown and told, {name}", times=len(load.unknown))
    for wrong in load.wrong:
        trials.count(f"PostgreSQL: acknowledged, {name}", wrong)
    trials.check()


#: The writer of the log must not wake up between a change and the kill.
_LAZY: Final = {"wal_writer_delay": "10s", "autovacuum": "off"}


def _use(connection: psycopg.Connection[tuple[object, ...]]) -> NoReturn:
    while True:
        connection.execute("SELECT 1")
        time.sleep(0.01)


def test_a_server_calls_a_lost_transaction_committed(trials: Trials) -> None:
    """Negative control: why ``pg_xact_status`` is never asked whether a lost commit was made.

    The ids of transactions that were not on the disk are used again after a crash. So the
    answer is that of another client's transaction.
    """
    deceived = 0
    with running(settings={**_DURABLE, **_LAZY}) as server:
        server.execute("CREATE TABLE one (n int)", "CHECKPOINT")
        for number in range(3):
            with closing(psycopg.connect(server.url())) as ours:
                ours.execute("INSERT INTO one VALUES (%s)", [number])
                row = ours.execute("SELECT pg_current_xact_id()::text").fetchone()
                assert row is not None
                [lost] = row
                server.kill()
                # The processes of its clients see that a moment later.
                with pytest.raises(psycopg.Error):
                    _use(ours)
            server.start()
            server.execute("INSERT INTO one VALUES (-1)")
            [(status,)] = server.execute(f"SELECT pg_xact_status('{lost}'::xid8)")
            rows = server.execute(f"SELECT count(*) FROM one WHERE n = {number}")
            assert rows == [(0,)]
            deceived += status == "committed"
    trials.count("PostgreSQL: a lost commit called committed", times=deceived)
    assert deceived


_FAILOVER: Final = {"synchronous_commit": "remote_apply"}


async def test_a_failover_keeps_what_was_replicated(trials: Trials) -> None:
    """With a synchronous standby nothing acknowledged is lost, and the store goes on by itself."""
    ports = [free_port(), free_port()]
    settings = [{**_DURABLE, **_FAILOVER, "port": port} for port in ports]
    with running(settings=settings[0]) as primary, following(primary, settings[1]) as standby:
        database = primary.database()
        primary.execute(
            "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"
        )
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        url = f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"
        async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
            load = Load(storage)

            def fail_over() -> None:
                time.sleep(1.5)
                primary.stop("immediate")
                time.sleep(0.5)
                standby.promote()
                time.sleep(1.5)

            await load.run(fail_over)
            await load.check(standby, database)
    trials.count("PostgreSQL: acknowledged, failover", times=len(load.entries) + load.reads)
    for wrong in load.wrong:
        trials.count("PostgreSQL: acknowledged, failover", wrong)
    trials.check()
