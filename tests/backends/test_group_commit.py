"""Writers share a commit, and nothing else: each of them succeeds or fails alone."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, text

from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.sqlite import batches
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema import tables
from tests.support.by_path import prepare
from tests.support.files import names

ADD = insert(tables.metadata.tables["browser_sessions"]).values(
    session_id=bindparam("session_id"), user_id="u", created_at=1, expires_at=2
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database at head."""
    path = tmp_path / "tokens.db"
    prepare(path)
    return path


@pytest.fixture
async def pool(path: Path) -> AsyncIterator[SqlitePool]:
    """An open pool."""
    pool = SqlitePool(path, "wal")
    yield pool
    await pool.close()


def adding(name: str) -> Callable[[Connection], int]:
    """A unit that adds one session."""
    return lambda connection: connection.run(ADD, {"session_id": name})


def seen_by_others(path: Path) -> set[str]:
    """The sessions that another program finds in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT session_id FROM browser_sessions")}


def change(path: Path, *statements: str) -> None:
    """What an operator does to the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """Ask for everything in the same turn of the loop; answers and errors."""
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(("batch", "fewest", "most"), [(batches.BATCH, 1, 3), (1, 64, 64)])
async def test_64_writers_share_a_few_commits(
    batch: int, fewest: int, most: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four at once cost a few commits, and no savepoint; sixty-four where none may share."""
    monkeypatch.setattr(batches, "BATCH", batch)
    said: list[str] = []
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(said.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", traced)
    pool = SqlitePool(path, "wal")
    await together(*(pool.write(adding(str(n))) for n in range(64)))
    assert fewest <= said.count("COMMIT") <= most
    assert "SAVEPOINT unit" not in said
    await pool.close()
    assert len(seen_by_others(path)) == 64


async def test_a_failing_unit_fails_alone(pool: SqlitePool, path: Path) -> None:
    """Of sixty-four, the one that raises gets its own error; the others are committed."""
    error = LookupError("inside")

    def fail(connection: Connection) -> None:
        connection.run(ADD, {"session_id": "half"})
        raise error

    units: list[Callable[[Connection], Any]] = [adding(str(n)) for n in range(63)]
    units.insert(31, fail)
    answers = await together(*(pool.write(unit) for unit in units))
    assert answers.pop(31) is error
    assert answers == [1] * 63
    assert seen_by_others(path) == {str(n) for n in range(63)}


async def test_a_taken_key_fails_alone(pool: SqlitePool, path: Path) -> None:
    """What SQLite refuses inside a shared commit is named, and only its writer hears of it."""
    answers = await together(*(pool.write(adding(str(n % 63))) for n in range(64)))
    errors = [answer for answer in answers if isinstance(answer, TokenStorageError)]
    assert [error.code for error in errors] == ["conflict"]
    assert answers.count(1) == 63
    assert len(seen_by_others(path)) == 63


async def test_a_unit_that_ends_the_transaction_fails_alone(pool: SqlitePool, path: Path) -> None:
    """Where a trigger rolls everything back, the others are written all the same, once."""
    change(
        path,
        "CREATE TRIGGER no BEFORE INSERT ON browser_sessions WHEN NEW.session_id = '31' "
        "BEGIN SELECT RAISE(ROLLBACK, 'not this one'); END",
    )
    answers = await together(*(pool.write(adding(str(n))) for n in range(64)))
    assert isinstance(answers.pop(31), TokenStorageError)
    assert answers == [1] * 63
    assert seen_by_others(path) == {str(n) for n in range(64)} - {"31"}


async def test_a_unit_that_lives_on_without_its_transaction_harms_nobody(
    pool: SqlitePool, path: Path
) -> None:
    """Where a unit hides that its error ended the transaction, the next ones are written once."""
    change(
        path,
        "CREATE TRIGGER no BEFORE INSERT ON browser_sessions WHEN NEW.session_id = 'ends' "
        "BEGIN SELECT RAISE(ROLLBACK, 'not this one'); END",
    )

    def hide(connection: Connection) -> None:
        with suppress(sqlite3.Error):
            connection.run(ADD, {"session_id": "ends"})

    first, hidden, last = await together(
        pool.write(adding("before")), pool.write(hide), pool.write(adding("after"))
    )
    assert (first, last) == (1, 1)
    assert isinstance(hidden, Exception)
    assert seen_by_others(path) == {"before", "after"}


async def test_a_commit_that_is_refused_keeps_nothing_of_the_guilty(
    pool: SqlitePool, path: Path
) -> None:
    """A reference that is checked at the commit fails the one who broke it, and nobody else."""
    change(
        path,
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)",
    )
    orphan = text("INSERT INTO child VALUES (7)")
    units: list[Callable[[Connection], Any]] = [adding(str(n)) for n in range(10)]
    units.insert(5, lambda connection: connection.run(orphan))
    answers = await together(*(pool.write(unit) for unit in units))
    refused = answers.pop(5)
    assert isinstance(refused, TokenStorageError)
    assert refused.code == "bad-input"
    assert answers == [1] * 10
    assert seen_by_others(path) == {str(n) for n in range(10)}


async def test_nobody_is_answered_before_the_commit(pool: SqlitePool, path: Path) -> None:
    """While one commit waits for another program's lock, no writer in it has an answer."""
    await pool.write(adding("warm"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        tasks = [asyncio.ensure_future(pool.write(adding(str(n)))) for n in range(8)]
        done, _ = await asyncio.wait(tasks, timeout=0.2)
        assert not done
        other.execute("COMMIT")
    assert await asyncio.gather(*tasks) == [1] * 8


async def test_a_lock_that_stays_is_waited_for_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight writers behind a lock that stays all hear of it after one wait, not after eight."""
    monkeypatch.setattr("nextcloud_mcp_server.backends.sqlite.pool.BUSY_TIMEOUT", 0.3)
    pool = SqlitePool(path, "wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(2):
            answers = await together(*(pool.write(adding(str(n))) for n in range(8)))
    assert {answer.code for answer in answers} == {"lock-timeout"}
    await pool.close()


async def test_a_long_read_holds_nobody_up(pool: SqlitePool) -> None:
    """While one unit reads for long, others read, and others write."""
    begun, go_on = threading.Event(), threading.Event()

    def long(_: Connection) -> bool:
        begun.set()
        return go_on.wait(30)

    slow = asyncio.ensure_future(pool.read(long))
    assert await asyncio.to_thread(begun.wait, 30)
    async with asyncio.timeout(20):
        assert await pool.write(adding("meanwhile")) == 1
        row = await pool.read(lambda c: c.first(text("SELECT count(*) FROM browser_sessions")))
    assert row is not None
    assert row[0] == 1
    go_on.set()
    assert await slow


async def test_a_read_sees_what_was_acknowledged(pool: SqlitePool) -> None:
    """Whoever reads after an answer finds the write, whatever else is read at that moment."""

    async def turn(name: str) -> int:
        await pool.write(adding(name))
        question = text("SELECT count(*) FROM browser_sessions WHERE session_id = :name")
        row = await pool.read(lambda c: c.first(question, {"name": name}))
        assert row is not None
        return int(row[0])

    assert await asyncio.gather(*(turn(f"{n}") for n in range(200))) == [1] * 200


async def test_more_than_one_batch_is_served(pool: SqlitePool, path: Path) -> None:
    """However many wait, each is done, in as many batches as it takes."""
    many = 2 * batches.BATCH + 10
    assert await asyncio.gather(*(pool.write(adding(str(n))) for n in range(many))) == [1] * many
    assert len(seen_by_others(path)) == many


async def test_a_unit_that_raises_stop_iteration_hangs_nobody(pool: SqlitePool) -> None:
    """An error that a future refuses to hold still reaches whoever asked."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.read(lambda _: next(iter(())))


async def test_a_database_that_has_vanished_is_not_made_anew(pool: SqlitePool, path: Path) -> None:
    """Where the file is gone, a first write is an error, and no empty file takes its place."""
    await asyncio.to_thread(path.rename, path.with_name("elsewhere.db"))
    with pytest.raises(TokenStorageError) as caught:
        await pool.write(adding("a"))
    assert caught.value.code == "bad-path"
    assert names(path.parent) == {"elsewhere.db", "tokens.db.lock"}


async def test_what_was_asked_in_the_turn_of_the_close_is_written(
    pool: SqlitePool, path: Path
) -> None:
    """A write whose thread is not even called yet is in the file when the close has ended."""
    asked = asyncio.ensure_future(pool.write(adding("last")))
    await pool.close()
    assert seen_by_others(path) == {"last"}
    assert await asked == 1


def test_what_waits_when_nobody_closes_is_written_at_the_end(path: Path) -> None:
    """A program that ends without closing the pool still writes what it had asked for."""
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
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert seen_by_others(path) == {"left"}


async def test_a_forked_child_leaves_the_parents_connections_alone(pool: SqlitePool) -> None:
    """What a child does at its exit closes nothing that the parent still writes through."""
    await pool.write(adding("before"))
    with warnings.catch_warnings():
        # Newer interpreters warn of a fork beside threads, which is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        pool._writer._at_exit()
        os._exit(0 if pool._writer._idle else 1)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await pool.write(adding("after")) == 1
