"""The pool: writes are durable, share commits, fail alone, and are finished before it closes."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, delete, func, insert, select, text, update

from nextcloud_mcp_server.backends import lanes
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.schema import tables
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.errors import refuses
from tests.support.files import names

SESSIONS = tables.metadata.tables["browser_sessions"]
ADD = insert(SESSIONS).values(
    session_id=bindparam("session_id"), user_id="u", created_at=1, expires_at=2
)

#: A trigger that ends the transaction when a session of this name is added.
ENDS_TRANSACTION = (
    "CREATE TRIGGER no BEFORE INSERT ON browser_sessions WHEN NEW.session_id = 'ends' "
    "BEGIN SELECT RAISE(ROLLBACK, 'not this one'); END"
)

#: Two tables with a reference that is checked at the commit.
DEFERRED_REFERENCE = (
    "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    "CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
)


@pytest.fixture
def path(path: Path) -> Path:
    """Return the path of a database at head, alone in its folder."""
    prepare(path)
    return path


@pytest.fixture
async def pool(path: Path) -> AsyncIterator[SqlitePool]:
    """Return an open pool."""
    pool = SqlitePool(path, "wal")
    yield pool
    await pool.close()


def count(connection: Connection) -> int:
    """Return the number of sessions."""
    row = connection.first(select(func.count()).select_from(SESSIONS))
    assert row is not None
    return int(row[0])


def adding(name: str) -> Callable[[Connection], int]:
    """Return a unit that adds one session."""
    return lambda connection: connection.run(ADD, {"session_id": name})


def failing(connection: Connection) -> None:
    """Add a session, then raise."""
    connection.run(ADD, {"session_id": "half"})
    raise LookupError


def committed(path: Path) -> set[str]:
    """Return the sessions that another connection reads."""
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT session_id FROM browser_sessions")}


def change(path: Path, *statements: str) -> None:
    """Execute statements on another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """Call everything in the same turn of the loop; return results and errors."""
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(
    ("statements", "unit", "error"),
    [
        ((), failing, LookupError),
        ((), adding("30"), "conflict"),
        ((ENDS_TRANSACTION,), adding("ends"), "ignored"),
        (DEFERRED_REFERENCE, lambda c: c.run(text("INSERT INTO child VALUES (7)")), "bad-input"),
    ],
    ids=["raises", "taken key", "ends the transaction", "refused at the commit"],
)
async def test_a_failing_unit_fails_alone(
    statements: Sequence[str],
    unit: Callable[[Connection], Any],
    error: str | type[Exception],
    pool: SqlitePool,
    path: Path,
) -> None:
    """Of 64 units in one commit, one gets its own error; the others are committed once."""
    change(path, *statements)
    units: list[Callable[[Connection], Any]] = [adding(str(n)) for n in range(63)]
    units.insert(31, unit)
    results = await together(*(pool.write(unit) for unit in units))
    failed = results.pop(31)
    assert getattr(failed, "code", type(failed)) == error
    assert results == [1] * 63
    assert committed(path) == {str(n) for n in range(63)}


@pytest.mark.parametrize("turns", [0, 1])
async def test_closing_waits_for_every_write(turns: int, pool: SqlitePool, path: Path) -> None:
    """All writes are in the file after the close, also if their thread was not called yet."""
    tasks = [asyncio.ensure_future(pool.write(adding(str(n)))) for n in range(20)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await pool.close()
    assert committed(path) == {str(n) for n in range(20)}
    assert await asyncio.gather(*tasks) == [1] * 20


@pytest.mark.parametrize(("batch", "fewest", "most"), [(lanes.BATCH, 1, 3), (1, 64, 64)])
async def test_64_writers_share_a_few_commits(
    batch: int, fewest: int, most: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 writes at once need at most three commits and no savepoint; 64 if none may share."""
    monkeypatch.setattr(lanes, "BATCH", batch)
    statements: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "Connection", traced)
    pool = SqlitePool(path, "wal")
    results = await together(*(pool.write(adding(str(n))) for n in range(64)))
    assert results == [1] * 64
    assert fewest <= statements.count("COMMIT") <= most
    assert "SAVEPOINT unit" not in statements
    await pool.close()
    assert len(committed(path)) == 64


async def test_a_unit_that_hides_the_end_of_its_transaction_fails_alone(
    pool: SqlitePool, path: Path
) -> None:
    """If a unit hides that its error ended the transaction, the others are written once."""
    change(path, ENDS_TRANSACTION)

    def hide(connection: Connection) -> None:
        with suppress(sqlite3.Error):
            connection.run(ADD, {"session_id": "ends"})

    first, hidden, last = await together(
        pool.write(adding("before")), pool.write(hide), pool.write(adding("after"))
    )
    assert (first, last) == (1, 1)
    assert isinstance(hidden, Exception)
    assert committed(path) == {"before", "after"}


async def test_no_write_returns_before_the_commit(pool: SqlitePool, path: Path) -> None:
    """While a commit waits for another program's lock, none of its writes has returned."""
    await pool.write(adding("warm"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tasks = [asyncio.ensure_future(pool.write(adding(str(n)))) for n in range(8)]
        done, _ = await asyncio.wait(tasks, timeout=0.2)
        assert not done
        other.execute("COMMIT")
    assert await asyncio.gather(*tasks) == [1] * 8


async def test_a_locked_database_is_waited_for_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight writers get the error after one timeout, not after eight."""
    monkeypatch.setattr("nextcloud_mcp_server.backends.sqlite.pool.BUSY_TIMEOUT", 0.3)
    pool = SqlitePool(path, "wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(2):
            results = await together(*(pool.write(adding(str(n))) for n in range(8)))
    assert {result.code for result in results} == {"lock-timeout"}
    await pool.close()


async def test_a_long_read_blocks_no_other_unit(pool: SqlitePool) -> None:
    """While one unit reads, others read and write."""
    begun, finish = threading.Event(), threading.Event()

    def long(_: Connection) -> bool:
        begun.set()
        return finish.wait(30)

    slow = asyncio.ensure_future(pool.read(long))
    assert await asyncio.to_thread(begun.wait, 30)
    async with asyncio.timeout(20):
        assert await pool.write(adding("meanwhile")) == 1
        assert await pool.read(count) == 1
    finish.set()
    assert await slow


async def test_a_read_finds_every_acknowledged_write(pool: SqlitePool) -> None:
    """A read after a write finds it, also if 200 others read and write."""

    async def turn(name: str) -> int:
        await pool.write(adding(name))
        query = text("SELECT count(*) FROM browser_sessions WHERE session_id = :name")
        row = await pool.read(lambda c: c.first(query, {"name": name}))
        assert row is not None
        return int(row[0])

    assert await asyncio.gather(*(turn(f"{n}") for n in range(200))) == [1] * 200


async def test_stop_iteration_of_a_unit_is_raised(pool: SqlitePool) -> None:
    """An exception that a future does not accept reaches the caller as a RuntimeError."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.read(lambda _: next(iter(())))


async def test_a_missing_database_is_not_created(pool: SqlitePool, path: Path) -> None:
    """If the file is gone, a first write is refused and creates no empty file."""
    await asyncio.to_thread(path.rename, path.with_name("elsewhere.db"))
    with refuses("replaced"):
        await pool.write(adding("a"))
    assert names(path.parent) == {"elsewhere.db", "tokens.db.lock"}


def test_a_pool_that_is_not_closed_is_written_at_the_exit(path: Path) -> None:
    """A program that ends without closing the pool still commits its writes."""
    program = f"""
import asyncio
from pathlib import Path
from sqlalchemy import text
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool

async def main():
    add = text("INSERT INTO browser_sessions VALUES ('left', 'u', 1, 2)")
    SqlitePool(Path({str(path)!r}), "wal").write(lambda connection: connection.run(add))

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True
    )
    assert done.stderr == ""
    assert committed(path) == {"left"}


async def test_a_read_takes_no_write_lock(pool: SqlitePool, path: Path) -> None:
    """Another program writes while a unit reads, and the unit does not read the change."""

    def read(connection: Connection) -> int:
        before = count(connection)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
            other.execute("INSERT INTO browser_sessions VALUES ('other', 'u', 1, 2)")
        assert count(connection) == before, "one unit reads one snapshot"
        return before

    assert await pool.read(read) == 0
    assert await pool.read(count) == 1


async def test_reading_changes_nothing(pool: SqlitePool, path: Path) -> None:
    """After reads alone, the file has its bytes and times."""
    await pool.write(adding("a"))
    await pool.close()
    before = invariants.disk(path)
    reader = SqlitePool(path, "wal")
    assert await reader.read(count) == 1
    await reader.close()
    assert invariants.disk(path) == before


async def test_a_cancelled_writer_still_writes(pool: SqlitePool, path: Path) -> None:
    """The cancelled task ends at once; its write is committed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.ensure_future(pool.write(adding("late")))
        await asyncio.sleep(0.05)
        task.cancel()
        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 10, "the unit itself is still waiting"
        other.execute("COMMIT")
    await pool.close()
    assert committed(path) == {"late"}


async def test_a_closed_database_is_one_file(pool: SqlitePool, path: Path) -> None:
    """After a clean close no -wal is left; closing twice is allowed."""
    await pool.write(adding("a"))
    await pool.close()
    await pool.close()
    assert names(path.parent) == {"tokens.db", "tokens.db.lock"}


@pytest.mark.parametrize(
    ("statements", "code"),
    [
        (["INSERT INTO browser_sessions VALUES ('a', 'u', 1, 2)"] * 2, "conflict"),
        (["INSERT INTO browser_sessions VALUES ('a', NULL, 1, 2)"], "bad-input"),
        (["INSERT INTO no_such_table VALUES (1)"], "inconsistent"),
        (["SELECT no_such_column FROM browser_sessions"], "inconsistent"),
    ],
)
async def test_an_error_of_sqlite_has_a_code(
    statements: Sequence[str], code: str, pool: SqlitePool
) -> None:
    """A taken key, a missing value, and a missing table or column each have their code."""

    def unit(connection: Connection) -> None:
        for statement in statements:
            connection.run(text(statement))

    with refuses(code) as caught:
        await pool.write(unit)
    assert caught.value.__cause__ is None, "SQLAlchemy's error has the statement in it"
    assert await pool.read(count) == 0


async def test_the_pragmas_fit_the_journal_mode(path: Path) -> None:
    """synchronous is FULL in WAL and EXTRA outside it; deleted secrets are overwritten."""

    def values(connection: Connection) -> list[int]:
        pragmas = ("synchronous", "foreign_keys", "secure_delete", "legacy_alter_table")
        rows = [connection.first(text(f"PRAGMA {name}")) for name in pragmas]
        return [int(row[0]) for row in rows if row is not None]

    for mode, synchronous in (("wal", 2), ("delete", 3)):
        pool = SqlitePool(path, mode)
        assert await pool.write(values) == [synchronous, 1, 1, 0]
        await pool.close()


async def test_units_do_not_interleave(pool: SqlitePool) -> None:
    """Thirty units that read a counter and then write it lose no increment."""
    await pool.write(adding("counter"))
    bump = update(SESSIONS).values(expires_at=bindparam("value"))
    query = select(SESSIONS.c.expires_at)

    def increase(connection: Connection) -> None:
        row = connection.first(query)
        assert row is not None
        connection.run(bump, {"value": row[0] + 1})

    await asyncio.gather(*(pool.write(increase) for _ in range(30)))
    assert [row[0] for row in await pool.read(lambda c: c.all(query))] == [32]
    assert await pool.write(lambda c: c.run(delete(SESSIONS))) == 1
