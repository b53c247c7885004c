"""Starts: at head, without a file, and many at once."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.bench.harness import (
    Clock,
    Pairs,
    Row,
    compare,
    environment,
    on_one_core,
    timed,
    undisturbed,
)
from tests.bench.place import KEY, Place, remove
from tests.bench.table import cores
from tests.support.child import Child

#: A process that has imported everything, starts on a line of input, and closes on the next.
STARTER: Final = f"""
import asyncio, sys, time
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def start():
    storage = RefreshTokenStorage(sys.argv[1], encryption_key={KEY!r})
    await storage.initialize()
    print(time.monotonic(), flush=True)
    # A server that has started stays.
    sys.stdin.readline()
    await storage.close()

while sys.stdin.readline():
    asyncio.run(start())
    print("closed", flush=True)
"""


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of a start."""
    yield at_head(place, place.scale.rows[1]).judged(
        "`initialize()` at head, imports aside",
        "opening it with sqlite3, reading the version row",
        5,
        seconds=0.002,
    )
    yield created(place).judged(
        "a start that creates all revisions, imports aside",
        "the same DDL in one sqlite3 transaction",
        20,
    )
    processors, starts = cores(), place.scale.starts
    yield crowd(place, place.database("crowd"), starts).judged(
        f"{starts} starts at once at head, by processes that wait for them",
        f"one start; {processors} cores, so 1.5 x {starts} / {processors} of it",
        1.5 * starts / min(processors, starts),
    )


def at_head(place: Place, rows: int) -> Pairs:
    """Measure ``initialize()`` at head, and opening the database with sqlite3."""
    with start_clock(place, rows) as ours:
        path = place.database("opened", rows)
        return each(place, lambda: _open(path), ours)


def each(place: Place, base: Clock, ours: Clock) -> Pairs:
    """Compare single calls, since a start does not run with warm caches."""
    scale = place.scale
    with undisturbed(), on_one_core():
        return compare(base, ours, scale.rounds * scale.calls, warm=scale.warm)


@contextmanager
def start_clock(place: Place, rows: int) -> Iterator[Clock]:
    """Yield a clock around ``initialize()`` of a database at head with ``rows`` rows."""
    path = place.database(f"head-{rows}", rows)
    with asyncio.Runner() as runner:
        yield lambda: runner.run(_start(path))


def _open(path: Path) -> float:
    begun = time.perf_counter()
    connection = sqlite3.connect(path)
    connection.execute("SELECT version_num FROM alembic_version").fetchone()
    seconds = time.perf_counter() - begun
    connection.close()
    return seconds


async def _start(path: Path) -> float:
    begun = time.perf_counter()
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    await storage.initialize()
    seconds = time.perf_counter() - begun
    await storage.close()
    return seconds


def created(place: Place) -> Pairs:
    """Measure a start without a file, and the same statements with sqlite3."""
    path = place.folder / "created.db"
    statements = _statements(place.template(place.scale.rows[0]))

    def ddl() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for pragma in ("synchronous=EXTRA", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.execute(statement)
            connection.execute("COMMIT")

    def base() -> float:
        remove(path)
        return timed(ddl)()

    def ours() -> float:
        remove(path)
        with undisturbed():
            return asyncio.run(_start(path))

    return compare(base, ours, place.scale.rounds, warm=place.scale.warm)


def _statements(path: Path) -> list[str]:
    """Return the statements that create the schema of a database."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
        )
        made = [row[0] for row in found]
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return [*made, f"INSERT INTO alembic_version VALUES ('{version}')"]


def crowd(place: Place, database: Path | str, number: int) -> Pairs:
    """Measure one start, and many at once until the last is open."""
    starters = [Child(STARTER, database, environ=environment()) for _ in range(number)]

    def signal(some: list[Child]) -> list[str]:
        for starter in some:
            starter.tell()
        return [starter.answer() for starter in some]

    def starting(some: list[Child]) -> float:
        begun = time.monotonic()
        opened = max(map(float, signal(some)))
        signal(some)
        return opened - begun

    try:
        return compare(
            lambda: starting(starters[:1]),
            lambda: starting(starters),
            place.scale.rounds,
            warm=place.scale.warm,
        )
    finally:
        for starter in starters:
            starter.kill()
