"""A compacted file has the same rows, and no trace of others; stores go on meanwhile."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite import compact as compacting
from nextcloud_mcp_server.backends.sqlite.compact import compact
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.migrations import upgrade_database
from tests.backends.test_pool import adding, committed
from tests.maintenance.keys.helpers import grant_many, opened
from tests.support.errors import refuses
from tests.support.revisions import HEAD
from tests.support.shapes import at

ROWS = 3_000


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of more than the 2 MB that SQLite keeps in memory; half of its pages are free."""
    path = tmp_path / "tokens.db"
    upgrade_database(path)
    grant_many(path, ROWS)
    with opened(path) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute(f"CREATE TABLE gone AS SELECT printf('%.*c', {3_000_000}, 'G')")
        connection.execute("UPDATE refresh_tokens SET scopes = printf('%.*c', 1000, 's')")
        connection.execute("DROP TABLE gone")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def _rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return every row with its rowid, by table."""
    with opened(path) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: connection.execute(f"SELECT rowid, * FROM {name} ORDER BY rowid").fetchall()
            for (name,) in names
        }


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("CREATE VIRTUAL TABLE found USING fts5(a, content='notes')", "full-text index .*found"),
        ("CREATE INDEX odd ON notes (twice(a))", "cannot rewrite .*twice"),
    ],
    ids=["an index that names rows", "an index with a function that is not loaded"],
)
def test_what_others_have_made_is_not_damaged(statement: str, what: str, tmp_path: Path) -> None:
    """The file stays as it is, and the error says what is in the way."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    with opened(path) as connection:
        connection.create_function("twice", 1, lambda a: 2 * a, deterministic=True)
        connection.execute("CREATE TABLE notes (a)")
        connection.execute("INSERT INTO notes VALUES (1), (2), (3)")
        connection.execute("DELETE FROM notes WHERE a = 1")
        connection.execute(statement)
    with refuses("conflict", match=what):
        compact(path)
    with opened(path) as connection:
        assert connection.execute("SELECT rowid, a FROM notes").fetchall() == [(2, 2), (3, 3)]


def test_rows_and_their_rowids_stay(tmp_path: Path) -> None:
    """Every table has an index for its key, for which SQLite keeps the rowids, also with gaps."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    with opened(path) as connection:
        connection.execute("DELETE FROM refresh_tokens WHERE rowid = 1")
    before = _rows(path)
    compact(path)
    assert _rows(path) == before
    assert connect(path).check_integrity() == ""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_free_pages_are_gone(mode: str, large: Path) -> None:
    """In each journal mode, which stays, with the mark and the mode of the file."""
    with opened(large) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("PRAGMA user_version=4711")
    large.chmod(0o600)
    size = large.stat().st_size
    compact(large)
    assert large.stat().st_size < size - 2_900_000
    assert b"GGGG" not in large.read_bytes()
    assert stat.S_IMODE(large.stat().st_mode) == 0o600
    with opened(large) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
        assert connection.execute("PRAGMA user_version").fetchone() == (4711,)
    # SQLite removes its own files.
    assert {file.suffix for file in large.parent.iterdir()} <= {".db", ".lock", ".inuse"}


def test_the_copy_is_beside_the_file_and_private(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's temporary file has mode 0600 and no name, and is not in a folder of others."""
    seen: dict[str, int] = {}

    def look() -> int:
        for opened_file in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if "etilqs" in (target := str(opened_file.readlink())):
                    seen[target] = opened_file.stat().st_mode
        return 0

    monkeypatch.setattr(compacting, "_let_python_run", look)
    monkeypatch.setattr(compacting, "_STEPS", 100)
    compact(large)
    assert seen
    for target, mode in seen.items():
        assert target.startswith(f"{large.parent}/")
        assert target.endswith(" (deleted)")
        assert stat.S_IMODE(mode) == 0o600
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("PRAGMA temp_store_directory").fetchall() == []


def test_a_folder_without_a_name_in_utf8(large: Path) -> None:
    """Then the copy is in memory."""
    folder = Path(os.fsdecode(os.fsencode(large.parent / "x") + b"\xff"))
    folder.mkdir()
    moved = large.rename(folder / "tokens.db")
    compact(moved)
    assert b"GGGG" not in moved.read_bytes()


def test_ctrl_c_leaves_the_file_as_it_was(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the VACUUM, and the next one does all of it."""

    def interrupt() -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    before = large.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(compacting, "_let_python_run", interrupt)
        patch.setattr(compacting, "_STEPS", 1_000)
        with pytest.raises(KeyboardInterrupt):
            compact(large)
    assert large.read_bytes() == before
    compact(large)
    assert b"GGGG" not in large.read_bytes()


def test_a_writer_that_does_not_end_is_not_waited_for(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are safe; the file may hold old values still."""
    monkeypatch.setattr(compacting, "BUSY_TIMEOUT", 0.1)
    monkeypatch.setattr(compacting, "_TURN", 0.1)
    with opened(large) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with refuses("lock-timeout"):
            compact(large)
    compact(large)


def test_too_little_space_is_said_before(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy and the -wal, of the pages in use, must both fit; nothing is changed."""
    used = large.stat().st_size - 3_000_000
    needed: list[int] = []
    monkeypatch.setattr(compacting, "require_space", lambda _, size, __: needed.append(size))
    compact(large)
    assert 1.9 * used < needed[0] < 2.1 * used


async def test_an_open_store_goes_on(large: Path) -> None:
    """Its writes before, during and after a VACUUM of another connection are all there."""
    pool = SqlitePool(large, "wal")
    await pool.write(adding("before"))
    done = threading.Thread(target=compact, args=(large,))
    done.start()
    await pool.write(adding("meanwhile"))
    done.join()
    await pool.write(adding("after"))
    await pool.close()
    assert committed(large) == {"before", "meanwhile", "after"}
