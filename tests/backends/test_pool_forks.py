"""The pool in a forked child: refused at once, and without harm to the parent."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from tests.backends.test_pool import adding, committed, count
from tests.support.by_path import prepare
from tests.support.child import ROOT
from tests.support.forks import Fork, in_child


@pytest.fixture
def pool(path: Path) -> Iterator[SqlitePool]:
    """Return an open pool that has read and written."""
    prepare(path)
    pool = SqlitePool(path, "wal")
    run(lambda: pool.write(adding("before")))
    run(lambda: pool.read(count))
    yield pool
    run(pool.close)


def run(call: Callable[[], Awaitable[Any]]) -> Any:
    """Await the result of ``call`` in a new event loop."""

    async def main() -> Any:
        return await call()

    return asyncio.run(main())


@pytest.mark.parametrize(
    "call",
    [lambda pool: pool.read(count), lambda pool: pool.write(adding("child"))],
    ids=["read", "write"],
)
def test_a_child_is_refused(call: Callable[[SqlitePool], Awaitable[Any]], pool: SqlitePool) -> None:
    """A read and a write on the parent's pool fail at once in a child, with a code."""
    assert in_child(lambda: run(lambda: call(pool))) == "forked"
    assert run(lambda: pool.read(count)) == 1


def test_closing_in_a_child_closes_nothing(pool: SqlitePool, path: Path) -> None:
    """close() returns in a child, and leaves the parent's pool alone."""
    run(lambda: pool.write(adding("in the WAL")))
    assert in_child(lambda: run(pool.close)) == "None"
    assert run(lambda: pool.write(adding("after"))) == 1
    assert committed(path) == {"before", "in the WAL", "after"}


def _write_twice(path: Path, read: int, write: int) -> str:
    """Write before and after the parent has closed its connections."""
    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        own.execute("INSERT INTO browser_sessions VALUES ('first', 'u', 1, 2)")
        os.write(write, b".")
        os.read(read, 1)
        own.execute("INSERT INTO browser_sessions VALUES ('second', 'u', 1, 2)")
    return "written"


@pytest.mark.parametrize("inherited", [False, True])
def test_a_connection_of_the_child_keeps_its_writes(
    inherited: bool, pool: SqlitePool, path: Path
) -> None:
    """The parent's close loses no write of a child, as it would if a connection was inherited."""
    # The negative control: SQLite's documentation forbids to carry it across a fork.
    if inherited:
        carried = sqlite3.connect(path, isolation_level=None)
        carried.execute("SELECT count(*) FROM browser_sessions").fetchall()
    (told, tell), (heard, answer) = os.pipe(), os.pipe()
    child = Fork(lambda: _write_twice(path, told, answer))
    os.read(heard, 1)
    run(pool.close)
    if inherited:
        carried.close()
    os.write(tell, b".")
    assert child.result() == "written"
    # In another process: this one may still use the old WAL.
    code = "import sys; from tests.backends.test_pool import *; print(*committed(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ("second" in done.stdout.split()) is not inherited


def test_forks_beside_running_units_lose_none(pool: SqlitePool, path: Path) -> None:
    """While eight tasks write and read, twenty forks stop none of them."""
    ended = threading.Event()
    written: list[str] = []

    async def writer(number: int) -> None:
        turn = 0
        while not ended.is_set():
            await pool.write(adding(name := f"{number}-{turn}"))
            written.append(name)
            assert await pool.read(count) > 0
            turn += 1

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(writer(number))

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    results = [in_child(lambda: run(lambda: pool.read(count))) for _ in range(20)]
    ended.set()
    thread.join(60)
    assert not thread.is_alive()
    assert results == ["forked"] * 20
    assert committed(path) == {"before", *written}


def test_a_fork_does_not_wait_for_a_long_unit(pool: SqlitePool) -> None:
    """A fork beside a unit that does not end takes about a second; the unit then succeeds."""
    begun, finish = threading.Event(), threading.Event()

    def long(_: object) -> bool:
        begun.set()
        return finish.wait(30)

    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(lambda: pool.read(long))))
    thread.start()
    assert begun.wait(30)
    before = time.monotonic()
    assert in_child(lambda: run(lambda: pool.read(count))) == "forked"
    assert time.monotonic() - before < 10
    finish.set()
    thread.join(30)
    assert results == [True]


def test_the_exit_of_a_child_leaves_the_parent_alone(path: Path) -> None:
    """A child that ends like a program, collecting its garbage, harms no write of the parent."""
    prepare(path)
    program = f"""
import asyncio, gc, os, sys
from pathlib import Path
from sqlalchemy import text
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool

pool = SqlitePool(Path({str(path)!r}), "wal")

async def add(name):
    statement = text("INSERT INTO browser_sessions VALUES (:name, 'u', 1, 2)")
    await pool.write(lambda connection: connection.run(statement, {{"name": name}}))

asyncio.run(add("before"))
if (child := os.fork()) == 0:
    del pool
    gc.collect()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
asyncio.run(add("after"))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert committed(path) == {"before", "after"}
