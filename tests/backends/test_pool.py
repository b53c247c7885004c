"""The pool's promises: durable, whole, drained, and never on the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import bindparam, delete, func, insert, select, text, update

from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema import tables
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.files import names

ADD = insert(tables.metadata.tables["browser_sessions"]).values(
    session_id=bindparam("session_id"), user_id="u", created_at=1, expires_at=2
)
COUNT = select(func.count()).select_from(tables.metadata.tables["browser_sessions"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database at head, alone in its folder."""
    path = tmp_path / "data" / "tokens.db"
    prepare(path)
    return path


@pytest.fixture
async def pool(path: Path) -> AsyncIterator[SqlitePool]:
    """An open pool."""
    pool = SqlitePool(path, "wal")
    yield pool
    await pool.close()


def count(connection: Connection) -> int:
    """How many sessions there are."""
    row = connection.first(COUNT)
    assert row is not None
    return int(row[0])


async def write(pool: SqlitePool, name: str) -> int:
    """Add one session."""
    return await pool.write(lambda connection: connection.run(ADD, {"session_id": name}))


def seen_by_others(path: Path) -> int:
    """How many sessions another program finds in the file."""
    with closing(sqlite3.connect(path)) as connection:
        [(found,)] = connection.execute("SELECT count(*) FROM browser_sessions")
    return int(found)


async def test_a_write_is_committed_when_it_answers(pool: SqlitePool, path: Path) -> None:
    """Another program sees it as soon as the answer is there; the answer is the unit's."""
    assert await write(pool, "a") == 1
    assert seen_by_others(path) == 1


async def test_sixty_four_writers_all_get_through(pool: SqlitePool, path: Path) -> None:
    """However many write at once, each is done once."""
    assert await asyncio.gather(*(write(pool, str(n)) for n in range(64))) == [1] * 64
    assert seen_by_others(path) == 64


async def test_a_failing_unit_leaves_nothing(pool: SqlitePool) -> None:
    """What a unit did before it raised is gone, and its error arrives as itself."""
    error = LookupError("inside")

    def fail(connection: Connection) -> None:
        connection.run(ADD, {"session_id": "half"})
        raise error

    with pytest.raises(LookupError) as caught:
        await pool.write(fail)
    assert caught.value is error
    assert await pool.read(count) == 0


async def test_a_read_cannot_hold_others_up(pool: SqlitePool, path: Path) -> None:
    """A unit that reads takes no write lock: another program writes meanwhile."""

    def read(connection: Connection) -> int:
        before = count(connection)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
            other.execute("INSERT INTO browser_sessions VALUES ('other', 'u', 1, 2)")
        assert count(connection) == before, "one unit sees one moment"
        return before

    assert await pool.read(read) == 0
    assert await pool.read(count) == 1


async def test_reading_changes_nothing(pool: SqlitePool, path: Path) -> None:
    """After reads alone, the file has its bytes and times."""
    await write(pool, "a")
    await pool.close()
    before = invariants.disk(path)
    reader = SqlitePool(path, "wal")
    assert await reader.read(count) == 1
    await reader.close()
    assert invariants.disk(path) == before


async def test_a_cancelled_writer_still_writes(pool: SqlitePool, path: Path) -> None:
    """Who is cancelled leaves at once; what was asked for is done to its end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.create_task(write(pool, "late"))
        await asyncio.sleep(0.05)
        task.cancel()
        begun = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < 10, "the unit itself is still waiting"
        other.execute("COMMIT")
    await pool.close()
    assert seen_by_others(path) == 1


async def test_closing_waits_for_what_is_under_way(pool: SqlitePool, path: Path) -> None:
    """Everything that was asked for before the close is in the file after it."""
    tasks = [asyncio.create_task(write(pool, str(n))) for n in range(20)]
    await asyncio.sleep(0)
    await pool.close()
    assert seen_by_others(path) == 20
    assert await asyncio.gather(*tasks) == [1] * 20


async def test_a_closed_database_is_one_file(pool: SqlitePool, path: Path) -> None:
    """After a clean close a plain copy of the file holds everything; closing twice is fine."""
    await write(pool, "a")
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
async def test_what_sqlite_refuses_is_named(
    statements: Sequence[str], code: str, pool: SqlitePool
) -> None:
    """A taken key, a missing value and a table that is gone each have their code."""

    def unit(connection: Connection) -> None:
        for statement in statements:
            connection.run(text(statement))

    with pytest.raises(TokenStorageError) as caught:
        await pool.write(unit)
    assert caught.value.code == code
    assert caught.value.__cause__ is None, "SQLAlchemy's error has the statement in it"
    assert await pool.read(count) == 0


async def test_the_connections_are_as_durable_as_the_journal_needs(path: Path) -> None:
    """FULL in WAL, EXTRA outside it; foreign keys hold and deleted secrets are overwritten."""

    def pragmas(connection: Connection) -> list[int]:
        asked = ("synchronous", "foreign_keys", "secure_delete", "legacy_alter_table")
        rows = [connection.first(text(f"PRAGMA {name}")) for name in asked]
        return [int(row[0]) for row in rows if row is not None]

    for mode, synchronous in (("wal", 2), ("delete", 3)):
        pool = SqlitePool(path, mode)
        assert await pool.write(pragmas) == [synchronous, 1, 1, 0]
        await pool.close()


async def test_a_unit_never_runs_into_another(pool: SqlitePool) -> None:
    """Units that read and then write do so on one moment, however many there are."""
    sessions = tables.metadata.tables["browser_sessions"]
    await write(pool, "counter")
    bump = update(sessions).values(expires_at=bindparam("value"))
    ask = select(sessions.c.expires_at)

    def increase(connection: Connection) -> None:
        row = connection.first(ask)
        assert row is not None
        connection.run(bump, {"value": row[0] + 1})

    await asyncio.gather(*(pool.write(increase) for _ in range(30)))
    assert [row[0] for row in await pool.read(lambda c: c.all(ask))] == [32]
    assert await pool.write(lambda c: c.run(delete(sessions))) == 1


@pytest.mark.parametrize("name", ["a?b#c%20d.db", "Bücher 🙂.db", "a'b;c.db"])
async def test_any_name_is_opened(name: str, tmp_path: Path) -> None:
    """The file that is served is the file that was migrated, whatever its name."""
    path = tmp_path / "data" / name
    prepare(path)
    pool = SqlitePool(path, "wal")
    await write(pool, "a")
    await pool.close()
    assert seen_by_others(path) == 1
    assert names(path.parent) == {name, f"{name}.lock"}
