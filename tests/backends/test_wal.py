"""Checkpoints keep every commit away, the -wal stays short, and holds no old secret."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from nextcloud_mcp_server.backends.connect import connect as database_at
from nextcloud_mcp_server.backends.sqlite import wal
from nextcloud_mcp_server.backends.sqlite.open_files import wal_size
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.backends.sqlite.wal import checkpoint, has_reset_bug, library
from tests.backends.test_pool import adding, committed
from tests.maintenance.restore.restoring import restored
from tests.support.by_path import downgrade, prepare
from tests.support.child import child
from tests.support.errors import refuses
from tests.support.revisions import HEAD

#: Writes a session with each line that it reads.
WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=float(sys.argv[2]))
connection.execute("PRAGMA journal_mode").fetchall()
print("ready", flush=True)
for line in sys.stdin:
    try:
        connection.execute("INSERT INTO browser_sessions VALUES (?, 'u', 1, 2)", (line.strip(),))
    except sqlite3.OperationalError as error:
        print(error, flush=True)
    else:
        print("written", flush=True)
"""

#: What only a connection that may commit executes.
_WRITES = ("COMMIT", "BEGIN IMMEDIATE", "INSERT", "REINDEX", "PRAGMA journal_mode=")


@pytest.fixture
def path(path: Path) -> Path:
    """Return the path of a database at head."""
    prepare(path)
    return path


@pytest.fixture
async def pool(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqlitePool]:
    """Return a pool that is idle after a fifth of a second."""
    monkeypatch.setattr(wal, "IDLE", 0.2)
    pool = SqlitePool(path, "wal")
    yield pool
    await pool.close()


class Traced:
    """Every connection that is opened, with its statements."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Trace from now on."""
        self.connections: list[tuple[str, list[str]]] = []
        self.at: dict[str, Callable[[], object]] = {}
        self._connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "Connection", self.connect)

    def connect(self, place: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        """Open a connection and trace it."""
        connection: sqlite3.Connection = self._connect(place, *arguments, **options)
        statements: list[str] = []
        self.connections.append((str(place), statements))

        def trace(statement: str) -> None:
            statements.append(statement)
            self.at.get(statement, lambda: None)()

        connection.set_trace_callback(trace)
        return connection


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    """Trace every connection."""
    return Traced(monkeypatch)


def wait_for(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_cut(path: Path) -> bool:
    """Return whether the -wal is one page."""
    return wal_size(path) == 32 + 24 + 4096


@pytest.mark.parametrize("version", [(3, 7, 0), (3, 40, 1), (3, 44, 5), (3, 50, 6), (3, 51, 2)])
def test_affected_versions(version: tuple[int, ...]) -> None:
    """The versions from 3.7.0 to 3.51.2 have the bug, apart from those with the fix."""
    assert has_reset_bug(version)


@pytest.mark.parametrize(
    "version", [(3, 6, 23), (3, 44, 6), (3, 50, 7), (3, 50, 8), (3, 51, 3), (3, 52, 0), (4, 0, 0)]
)
def test_fixed_versions(version: tuple[int, ...]) -> None:
    """Older and newer versions, and two corrected ones between, have not."""
    assert not has_reset_bug(version)


def test_the_description_of_the_library_is_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version with the bug is described by what this program does about it."""
    version = sqlite3.sqlite_version
    monkeypatch.setattr(wal, "has_reset_bug", lambda: False)
    assert library() == f"SQLite {version}"
    monkeypatch.setattr(wal, "has_reset_bug", lambda: True)
    assert library().startswith(f"SQLite {version}: no write is lost")


def test_no_commit_is_possible_during_a_checkpoint(path: Path, traced: Traced) -> None:
    """Another process cannot commit between the begin and the end of a checkpoint."""
    with closing(sqlite3.connect(path, isolation_level=None)) as own, child(WRITER, path, 0) as it:
        own.execute("INSERT INTO browser_sessions VALUES ('first', 'u', 1, 2)")
        seen: list[str] = []
        traced.at = {
            "PRAGMA wal_checkpoint(PASSIVE)": lambda: seen.append(it.ask("during")),
            "ROLLBACK": lambda: seen.append(it.ask("at the end")),
        }
        assert checkpoint(path, 1)
        assert seen == ["database is locked", "database is locked"]
        assert it.ask("afterwards") == "written"
    assert committed(path) == {"first", "afterwards"}


def test_during_a_plain_checkpoint_others_commit(path: Path, traced: Traced) -> None:
    """Negative control: SQLite's own checkpoint leaves the write lock to others."""
    with closing(sqlite3.connect(path, isolation_level=None)) as own, child(WRITER, path, 0) as it:
        own.execute("INSERT INTO browser_sessions VALUES ('first', 'u', 1, 2)")
        seen: list[str] = []
        statement = "PRAGMA wal_checkpoint(PASSIVE)"
        traced.at = {statement: lambda: seen.append(it.ask("during"))}
        with closing(sqlite3.Connection(path, isolation_level=None)) as plain:
            plain.execute(statement).fetchall()
        assert seen == ["written"]


async def test_no_connection_makes_automatic_checkpoints(path: Path, traced: Traced) -> None:
    """Each connection that may commit has switched them off before its first write."""
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT 1 FROM browser_sessions").fetchall()
        pool = SqlitePool(path, "wal")
        await pool.write(adding("one"))
        await asyncio.to_thread(downgrade, path, "005", while_running=True)
        await asyncio.to_thread(prepare, path)
        [saved, *_] = path.parent.glob(f"*.backup-*-{HEAD}")
        await asyncio.to_thread(restored, path, saved, while_running=True)
        async with database_at(path).session():
            pass
        await pool.close()
    writers = [
        statements
        for place, statements in traced.connections
        if path.name in place.rpartition("/")[2].partition("?")[0].split(".partial")
        and any(statement.startswith(_WRITES) for statement in statements)
    ]
    assert len(writers) >= 5
    for statements in writers:
        first = next(n for n, one in enumerate(statements) if one.startswith(_WRITES))
        assert "PRAGMA wal_autocheckpoint=0" in statements[:first], statements[:20]


async def test_the_wal_stays_short_while_many_write(path: Path) -> None:
    """A store that writes without a pause makes checkpoints, and the -wal stays short."""
    pool = SqlitePool(path, "wal")
    add = text("INSERT INTO browser_sessions VALUES (:name, :filling, 1, 2)")

    def unit(name: str) -> Callable[[Any], int]:
        values = {"name": name, "filling": "x" * 100_000}
        return lambda connection: int(connection.run(add, values))

    longest = 0
    for turn in range(20):
        await asyncio.gather(*(pool.write(unit(f"{turn}-{n}")) for n in range(20)))
        longest = max(longest, wal_size(path))
    # A batch of 20 has 2 MB, and the size is seen after it.
    assert longest < 2 * wal.LIMIT
    await pool.close()
    assert len(committed(path)) == 400


async def test_two_stores_write_and_lose_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores and another process that write, with a checkpoint after each batch, keep all."""
    monkeypatch.setattr(wal, "LIMIT", 0)
    monkeypatch.setattr(wal, "_STEP", 0)
    pools = [SqlitePool(path, "wal") for _ in range(2)]
    with child(WRITER, path, 30) as other:
        for turn in range(60):
            other.tell(f"other-{turn}")
            await asyncio.gather(*(p.write(adding(f"{turn}-{n}")) for n, p in enumerate(pools)))
            assert await asyncio.to_thread(other.answer) == "written"
    for pool in pools:
        await pool.close()
    assert len(committed(path)) == 180


async def test_an_idle_store_leaves_no_old_secret(pool: SqlitePool, path: Path) -> None:
    """Soon after the last write, a deleted secret is neither in the file nor in the -wal."""
    secret = "the-old-secret"
    await pool.write(adding(secret))
    assert secret.encode() in path.with_name(path.name + "-wal").read_bytes()
    await pool.write(lambda c: c.run(text("DELETE FROM browser_sessions")))
    await asyncio.to_thread(wait_for, lambda: is_cut(path))
    for file in path.parent.iterdir():
        assert secret.encode() not in file.read_bytes(), file
    assert await pool.write(adding("after")) == 1


async def test_an_idle_store_does_nothing_more(pool: SqlitePool, path: Path) -> None:
    """An emptied -wal is not written again."""
    await pool.write(adding("one"))
    await asyncio.to_thread(wait_for, lambda: is_cut(path))
    # The checkpoint that empties it may still be writing.
    await asyncio.sleep(0.2)
    before = path.with_name(path.name + "-wal").stat().st_mtime_ns
    await asyncio.sleep(1)
    assert path.with_name(path.name + "-wal").stat().st_mtime_ns == before


@pytest.mark.parametrize("left", [0, 16, 32, 100])
async def test_a_write_behind_a_wal_that_was_cut_after_its_first_commit_is_refused(
    left: int, path: Path
) -> None:
    """Also the second write to a -wal is not confirmed if the first is gone."""
    prepare(path)
    pool = SqlitePool(path, "wal")
    await pool.write(adding("one"))
    os.truncate(path.with_name(path.name + "-wal"), left)
    with refuses("replaced", "was emptied or cut off"):
        await pool.write(adding("lost"))
    await pool.close()


@pytest.mark.parametrize("left", [0, 16, 32, 32 + 24 + 4096, -1])
async def test_a_write_behind_a_wal_that_was_cut_is_refused(
    left: int, pool: SqlitePool, path: Path
) -> None:
    """If another program empties the -wal or cuts it off, no write is confirmed any more."""
    for name in ("one", "two", "three"):
        await pool.write(adding(name))
    os.truncate(path.with_name(path.name + "-wal"), left if left >= 0 else wal_size(path) - 4096)
    for name in ("lost", "also lost"):
        with refuses("replaced", "was emptied or cut off"):
            await pool.write(adding(name))


def test_a_wal_that_another_process_begins_again_may_become_shorter(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first commit cuts it, perhaps after this process has looked at the new header."""
    prepare(path)
    log = wal.WalFile(path)
    log.marks = False
    header, again = (bytes(16) + salt * 8 + bytes(8) for salt in (b"1", b"2"))
    sizes = (9_000, 9_000, 9_000, 9_000, 5_000, 6_000)
    headers = (header, header, header, again, again, again)
    seen = iter(
        [wal._Seen(size, text, valid=True) for size, text in zip(sizes, headers, strict=True)]
    )
    monkeypatch.setattr(log, "_look", lambda: next(seen))
    with closing(sqlite3.connect(path)) as connection:
        for _ in range(3):
            log.begin(connection)
            log.committed()


async def test_a_wal_that_another_program_checkpoints_is_not_cut(
    pool: SqlitePool, path: Path
) -> None:
    """A checkpoint that empties the -wal is no reason to refuse, nor a commit without a change."""
    for kind in ("TRUNCATE", "RESTART", "FULL", "PASSIVE"):
        await pool.write(adding(kind))
        with closing(sqlite3.connect(path)) as other:
            assert other.execute(f"PRAGMA wal_checkpoint({kind})").fetchone()[0] == 0
        await pool.write(lambda _: None)
        await pool.write(adding(f"after {kind}"))


async def test_a_wal_that_a_reader_kept_long_is_cut_after_it(pool: SqlitePool, path: Path) -> None:
    """While a forgotten reader reads, the -wal grows; after it has ended, the -wal is cut."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM browser_sessions").fetchall()
        for turn in range(50):
            await pool.write(adding(f"{turn}"))
        await asyncio.sleep(0.5)
        long = wal_size(path)
        assert long > 200_000
        reader.execute("COMMIT")
    await asyncio.to_thread(wait_for, lambda: is_cut(path))


async def test_a_closed_store_leaves_no_old_secret_beside_another_one(path: Path) -> None:
    """A store that closes while another program has the file open empties the -wal too."""
    pool = SqlitePool(path, "wal")
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM browser_sessions").fetchall()
        await pool.write(adding("the-old-secret"))
        await pool.write(lambda c: c.run(text("DELETE FROM browser_sessions")))
        await pool.close()
        assert is_cut(path)
        for file in path.parent.iterdir():
            assert b"the-old-secret" not in file.read_bytes(), file


def test_a_checkpoint_creates_no_database(path: Path) -> None:
    """A checkpoint of a file that is gone fails and creates none."""
    path.unlink()
    with suppress(sqlite3.OperationalError):
        checkpoint(path, 1)
    assert not path.exists()
