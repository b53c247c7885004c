"""A ``-wal`` or ``-journal`` that belongs to another file is refused, and kept."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.backends.sqlite import in_use
from nextcloud_mcp_server.backends.sqlite.inspect import inspect_file
from nextcloud_mcp_server.backends.sqlite.open_files import wal_size
from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.cli.main import main
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.backup import back_up
from tests.backends.test_pool import adding, count
from tests.migrate.databases import crash_in_a_write
from tests.support.by_path import inspect, prepare
from tests.support.errors import refuses
from tests.support.files import names
from tests.support.shapes import at

WRITER = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA wal_autocheckpoint=0")
for statement in sys.argv[2:]:
    connection.execute(statement)
os.kill(os.getpid(), signal.SIGKILL)
"""

#: Writes that change the first page of the file, and one that changes other pages only.
GROW = "CREATE TABLE grown (x)"
CHANGE = "UPDATE refresh_tokens SET flow_type = 'x'"


def killed_after(path: Path, *statements: str) -> None:
    """Kill a writer after its commits, so that they are only in the ``-wal``."""
    done = subprocess.run([sys.executable, "-c", WRITER, str(path), *statements], check=False)
    assert done.returncode == -signal.SIGKILL


def crashed(path: Path, mode: str) -> Path:
    """Create a database with a ``-wal`` or a hot ``-journal``, and return that."""
    at("006").write(path, [f"journal_mode={mode}"])
    if mode == "wal":
        killed_after(path, GROW, CHANGE)
        return Path(f"{path}-wal")
    crash_in_a_write(path)
    return Path(f"{path}-journal")


def _everywhere(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the code that each command reports; fail if one changes a file."""
    found = []
    for words in (
        "current",
        "check",
        "upgrade",
        "upgrade --dry-run",
        "stamp 006",
        "downgrade --revision 005 -y",
        "repair -y",
        "backup",
    ):
        before = {name: Path(path.parent, name).read_bytes() for name in _files(path)}
        capsys.readouterr()
        assert main(["db", *words.split(), "-d", str(path), "--json"]) == 1, words
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        found.append(document["error"]["code"])
        assert {name: Path(path.parent, name).read_bytes() for name in _files(path)} == before
    return found


def _files(path: Path) -> list[str]:
    return [p.name for p in path.parent.iterdir() if not p.name.endswith((".lock", ".key"))]


@pytest.mark.parametrize("mode", ["wal", "delete"])
@pytest.mark.parametrize("left", ["nothing", "an empty file", "another file"])
def test_an_orphan_is_refused_by_every_command(
    mode: str, left: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A companion without its file is reported by every command, and nothing is changed."""
    crashed(path, mode)
    Path(f"{path}-shm").unlink(missing_ok=True)
    path.unlink()
    if left == "an empty file":
        path.touch()
    elif left == "another file":
        # Beside the companion SQLite would apply it.
        other = path.with_name("other.db")
        at("001").write(other)
        other.rename(path)
    assert set(_everywhere(path, capsys)) == {"orphaned"}
    assert main(["db", "doctor", "-d", str(path)]) == 1
    assert "orphaned" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_remedy_works(mode: str, path: Path) -> None:
    """After the command of the remedy a start succeeds; the companion is kept."""
    companion = crashed(path, mode)
    content = companion.read_bytes()
    Path(f"{path}-shm").unlink(missing_ok=True)
    path.unlink()
    refused = inspect(path).refusal
    assert refused is not None
    command = refused.remedy[refused.remedy.index("mv ") :]
    subprocess.run(shlex.split(command), check=True)
    prepare(path)
    assert Path(f"{companion}.orphaned").read_bytes() == content


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_is_accepted_when_it_is_back(mode: str, path: Path) -> None:
    """If the file returns to its companion, its last commits are read."""
    crashed(path, mode)
    away = path.with_name("away.db")
    path.rename(away)
    with pytest.raises(TokenStorageError, match="is not there"):
        prepare(path)
    away.rename(path)
    prepare(path)
    with closing(sqlite3.connect(path)) as connection:
        grown = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'grown'").fetchall()
        assert bool(grown) == (mode == "wal")
        assert connection.execute("SELECT count(*) FROM refresh_tokens").fetchone() != (0,)


def test_a_backup_that_is_copied_into_place_is_not_undone(path: Path) -> None:
    """A ``-wal`` that continues a later state of the same file is refused."""
    at("006").write(path, ["journal_mode=WAL"])
    prepare(path)
    backup = back_up(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for number in range(3):
            connection.execute(f"CREATE TABLE later{number} (x)")
    killed_after(path, GROW, CHANGE)
    shutil.copyfile(backup, path)
    Path(f"{path}-shm").unlink(missing_ok=True)
    with pytest.raises(TokenStorageError, match="belongs to another file") as refused:
        prepare(path)
    assert refused.value.code == "orphaned"


def test_another_page_size_and_length_are_told_apart(path: Path) -> None:
    """Without a copy of the first page, the page size and the number of pages are compared."""
    at("006").write(path, ["journal_mode=WAL"])
    killed_after(path, CHANGE)
    assert not inspect_file(path).damage
    for size in (1024, 4096):
        other = path.with_name(f"{size}.db")
        at("001").write(other, [f"page_size={size}"])
        shutil.copyfile(f"{path}-wal", f"{other}-wal")
        assert inspect_file(other).damage == "orphaned"


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
@pytest.mark.parametrize("content", [b"", bytes(4096)])
def test_an_empty_companion_is_no_reason_to_refuse(suffix: str, content: bytes, path: Path) -> None:
    """A companion without content, as a power cut during the first start leaves it, is replaced."""
    path.touch()
    Path(f"{path}{suffix}").write_bytes(content)
    prepare(path)


def test_a_kill_during_the_creation_is_no_reason_to_refuse(path: Path) -> None:
    """The journal of a transaction that creates the first table is rolled back."""
    statements = ["PRAGMA cache_size=1", "BEGIN", "CREATE TABLE x (y)"]
    statements += ["INSERT INTO x VALUES (zeroblob(9000))"] * 20
    killed_after(path, *statements)
    assert Path(f"{path}-journal").stat().st_size
    prepare(path)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_the_companion_of_the_file_itself_is_accepted(mode: str, path: Path) -> None:
    """After a crash in any of many writes, its own companion is never refused."""
    at("006").write(path, [f"journal_mode={mode}"])
    for number in range(6):
        statements = [f"CREATE TABLE t{number} (x)", CHANGE]
        statements += [f"INSERT INTO t{number} VALUES (zeroblob(20000))"] * number
        if mode == "wal" and number % 2:
            statements += ["PRAGMA wal_checkpoint(PASSIVE)", f"DROP TABLE t{number}"]
        elif mode == "delete":
            statements = ["PRAGMA cache_size=1", "BEGIN", *statements]
        killed_after(path, *statements)
        assert Path(f"{path}-{'wal' if mode == 'wal' else 'journal'}").stat().st_size
        assert inspect(path).refusal is None
        if number == 3:
            with closing(sqlite3.connect(path)) as connection:
                connection.execute("SELECT * FROM refresh_tokens").fetchall()


def test_a_restore_moves_an_orphan_away(path: Path) -> None:
    """A restore beside an orphan succeeds, keeps the orphan, and is not undone by it."""
    at("006").write(path, ["journal_mode=WAL"])
    prepare(path)
    backup = back_up(path)
    killed_after(path, GROW, CHANGE)
    content = Path(f"{path}-wal").read_bytes()
    Path(f"{path}-shm").unlink(missing_ok=True)
    for empty in (False, True):
        path.unlink(missing_ok=True)
        Path(f"{path}-wal").write_bytes(content)
        if empty:
            path.touch()
        assert main(["db", "restore", str(backup), "-y", "-d", str(path)]) == 0
        kept = list(path.parent.glob("tokens.db.damaged-*-wal"))
        assert [p.read_bytes() for p in kept] == [content], empty
        kept[0].unlink()
        assert inspect(path).ready
        with closing(sqlite3.connect(path)) as connection:
            assert not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'grown'"
            ).fetchall()


async def _stored(path: Path, name: str, crashed: Path | None = None) -> Path:
    """Store a session in a new database; copy it to ``crashed`` as a killed server leaves it."""
    await asyncio.to_thread(prepare, path)
    pool = SqlitePool(path, "wal")
    await pool.write(adding(name))
    if crashed is not None:
        for suffix in ("", "-wal"):
            await asyncio.to_thread(shutil.copy, f"{path}{suffix}", f"{crashed}{suffix}")
    await pool.close()
    return crashed or path


async def test_another_database_of_the_same_history_is_told_apart(
    path: Path, tmp_path: Path
) -> None:
    """Two databases that did the same have the same counters and sizes, but not the same mark."""
    other = await _stored(path, "other")
    crashed = await _stored(tmp_path / "own.db", "own", tmp_path / "crashed.db")
    assert inspect(crashed).refusal is None
    await asyncio.to_thread(shutil.copy, other, crashed)
    refusal = inspect(crashed).refusal
    assert refusal is not None
    assert (refusal.code, "the mark of another database" in refusal.message) == ("orphaned", True)


async def test_an_earlier_state_of_the_same_database_is_told_apart(
    path: Path, tmp_path: Path
) -> None:
    """Its counter is behind the first page 1 of the -wal, which each first commit writes."""
    await _stored(path, "first")
    old = shutil.copy(path, tmp_path / "old.db")
    await _stored(path, "second")
    crashed = await _stored(path, "third", tmp_path / "crashed.db")
    assert inspect(crashed).refusal is None
    shutil.copy(old, crashed)
    refusal = inspect(crashed).refusal
    assert refusal is not None
    assert refusal.code == "orphaned"


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
def test_a_pipe_beside_the_database_is_refused(suffix: str, path: Path) -> None:
    """SQLite would wait for it without end."""
    prepare(path)
    companion = path.with_name(path.name + suffix)
    companion.unlink(missing_ok=True)
    os.mkfifo(companion)
    with refuses("orphaned", f"{companion.name} is not a regular file"):
        prepare(path)


@pytest.mark.parametrize("target", ["missing", "other.db-wal"])
@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
def test_a_link_beside_the_database_is_refused(suffix: str, target: str, path: Path) -> None:
    """SQLite follows none, and would only say that it cannot open the database."""
    prepare(path)
    companion = path.with_name(path.name + suffix)
    companion.unlink(missing_ok=True)
    path.with_name("other.db-wal").write_bytes(b"somebody's")
    companion.symlink_to(path.with_name(target))
    assert inspect(path).refusal is not None
    with refuses("orphaned", f"{companion.name} is a link"):
        prepare(path)


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_what_lies_beside_a_link_is_looked_at(suffix: str, path: Path, tmp_path: Path) -> None:
    """If a database was moved and a link left in its place, its -wal stayed behind."""
    moved = tmp_path / "moved.db"
    prepare(moved)
    path.symlink_to(moved)
    path.with_name(path.name + suffix).write_bytes(b"transactions of the moved database")
    for look in (prepare, inspect):
        with refuses("orphaned", f"{path.name}{suffix} .* lies beside the link"):
            look(path)
    path.with_name(path.name + suffix).unlink()
    prepare(path)


async def test_a_restore_of_another_database_that_is_killed_is_accepted(
    path: Path, tmp_path: Path
) -> None:
    """It writes every page into the -wal, with the mark of the other database."""
    other = await _stored(tmp_path / "other.db", "other")
    own = await _stored(path, "own")
    killed = (
        "import os, signal, sqlite3, sys\n"
        "target, source = map(sqlite3.connect, sys.argv[1:])\n"
        "target.execute('SELECT 1 FROM sqlite_master').fetchall()\n"
        "source.backup(target)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", killed, str(own), str(other)]
    await asyncio.to_thread(lambda: subprocess.run(command, check=False))
    assert wal_size(own)
    assert inspect(own).refusal is None


def carry_out(error: TokenStorageError) -> None:
    """Run the command of a remedy."""
    subprocess.run(["sh", "-c", error.remedy.partition(": ")[2]], check=True)


@pytest.mark.parametrize("opened", [True, False])
async def test_a_journal_that_appears_beside_an_open_store_is_named(
    opened: bool, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no other process that keeps a lock: nobody waits, and moving it away is enough."""
    prepare(path)
    pool = SqlitePool(path, "wal", in_use.hold(path))
    if opened:
        assert await pool.write(adding("before")) == 1
    journal = Path(f"{path}-journal")
    shutil.copy(crashed(tmp_path / "other.db", "delete"), journal)
    begun = time.monotonic()
    with refuses("orphaned", "has none") as caught:
        await pool.read(count)
    assert await asyncio.to_thread(main, ["db", "current", "-d", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "orphaned"
    assert time.monotonic() - begun < 10
    await asyncio.to_thread(carry_out, caught.value)
    assert names(path.parent) >= {f"{journal.name}.orphaned"}
    assert await pool.write(adding("after")) == 1
    assert await pool.read(count) == 1 + opened
    shutil.copy(f"{journal}.orphaned", journal)
    await pool.close()
    assert time.monotonic() - begun < 20
