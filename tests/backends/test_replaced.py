"""A store whose files were moved, deleted or replaced refuses by name and harms no other file."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.pool import SqlitePool
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.backups import newest_backup
from tests.backends.test_pool import adding, committed, count
from tests.maintenance.restore.restoring import restored
from tests.support.by_path import prepare
from tests.support.child import ROOT
from tests.support.errors import refuses
from tests.support.files import names
from tests.support.unprivileged import as_nobody, open_folder

Harm = Callable[[Path], object]


def sibling(path: Path, suffix: str) -> Path:
    """Return the path of a companion."""
    return path.with_name(path.name + suffix)


def delete(*suffixes: str) -> Harm:
    """Return a harm that deletes files."""

    def harm(path: Path) -> None:
        for suffix in suffixes:
            sibling(path, suffix).unlink()

    return harm


def move_away(path: Path) -> None:
    """Move the database away."""
    path.rename(path.with_name("away.db"))


def move_over(path: Path) -> None:
    """Move a migrated database of another server over it."""
    other = path.with_name("other.db")
    prepare(other)
    other.rename(path)


def copy_over(suffix: str) -> Harm:
    """Return a harm that puts an equal copy in the place of a file."""

    def harm(path: Path) -> None:
        copy = path.with_name("copy")
        shutil.copy(sibling(path, suffix), copy)
        copy.rename(sibling(path, suffix))

    return harm


def replace_all(path: Path) -> None:
    """Delete all files and let another program write a database there, and be killed."""
    delete("", "-wal", "-shm")(path)
    prepare(path)
    write_and_die(path)


def replace_wal(path: Path) -> None:
    """Delete the companions, and let another program write a new -wal and be killed."""
    delete("-wal", "-shm")(path)
    write_and_die(path)


def move_folder(path: Path) -> None:
    """Move the folder away, and make another database at the same path."""
    path.parent.rename(path.parent.with_name("away"))
    path.parent.mkdir()
    prepare(path)


#: Adds a session from another process, which leaves its -wal behind.
_DIES = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("INSERT INTO browser_sessions VALUES ('foreign', 'u', 1, 2)")
os._exit(0)
"""


def write_and_die(path: Path) -> None:
    """Write from a process that is killed before it closes the database."""
    subprocess.run([sys.executable, "-c", _DIES, str(path)], check=True, cwd=ROOT)


def leave_link(suffix: str) -> Harm:
    """Return a harm that moves a file and leaves a link to it."""

    def harm(path: Path) -> None:
        file = sibling(path, suffix)
        moved = file.rename(file.with_name("moved"))
        file.symlink_to(moved)

    return harm


def remove_link(path: Path) -> None:
    """Remove a link; leave another file as it is."""
    if path.is_symlink():
        path.unlink()


BOTH_MODES: dict[str, Harm] = {
    "a link to it in its place": leave_link(""),
    "deleted": delete(""),
    "moved away": move_away,
    "another moved over it": move_over,
    "an equal copy moved over it": copy_over(""),
    "its folder moved": move_folder,
}
HARMS: dict[str, Harm] = BOTH_MODES | {
    "all deleted": delete("", "-wal", "-shm"),
    "-wal deleted": delete("-wal"),
    "a link in the place of the -wal": leave_link("-wal"),
    "-shm deleted": delete("-shm"),
    "-wal and -shm deleted": delete("-wal", "-shm"),
    "-wal replaced": copy_over("-wal"),
    "-shm replaced": copy_over("-shm"),
    "-wal of a killed process": replace_wal,
    "all of a killed process": replace_all,
}
harms = pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database at head, in a folder of its own."""
    path = tmp_path / "here" / "tokens.db"
    prepare(path)
    return path


@pytest.fixture
async def pool(path: Path) -> AsyncIterator[SqlitePool]:
    """Return a pool that has written and read."""
    pool = SqlitePool(path, "wal")
    assert await pool.write(adding("before")) == 1
    assert await pool.read(count) == 1
    yield pool
    await pool.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, apart from the locks and the copies of a store."""
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if not file.name.endswith((".lock", "-rescued", ".json"))
    }


async def refused(pool: SqlitePool) -> None:
    """Check that a write and a read are refused by name."""
    for call in (pool.write(adding("lost")), pool.read(count)):
        with pytest.raises(TokenStorageError) as caught:
            await call
        assert caught.value.code == "replaced"
        assert caught.value.__cause__ is None
    with pytest.raises(TokenStorageError, match="is not the database that this server opened"):
        pool.check()


@harms
async def test_a_store_on_replaced_files_refuses(harm: Harm, pool: SqlitePool, path: Path) -> None:
    """After a file was deleted, moved or replaced, no write and no read is answered."""
    pool.check()
    harm(path)
    await refused(pool)


async def test_a_store_on_an_emptied_file_refuses(pool: SqlitePool, path: Path) -> None:
    """It is the same file, but what is written to it now is lost at the next start."""
    os.truncate(path, 0)
    for _ in range(2):
        with pytest.raises(TokenStorageError, match="is empty now") as caught:
            await pool.write(adding("after"))
        assert caught.value.code == "replaced"


@pytest.mark.parametrize("read", [False, True], ids=["written", "read first"])
async def test_a_store_on_a_database_that_was_cut_off_refuses(read: bool, path: Path) -> None:
    """Pages that are gone are not written again, so a commit could not be read afterwards."""
    pool = SqlitePool(path, "wal")
    await pool.write(adding("before"))
    os.truncate(path, 40_960)
    if read:
        with suppress(TokenStorageError):
            await pool.read(count)
    with pytest.raises(TokenStorageError, match="was cut off") as caught:
        await pool.write(adding("after"))
    assert caught.value.code == "replaced"
    with suppress(TokenStorageError):
        await pool.close()


@pytest.mark.parametrize("grown", [0, 2_000_000], ids=["smaller", "grown again in the -wal"])
async def test_a_database_that_became_smaller_is_served(grown: int, path: Path) -> None:
    """After a VACUUM and a checkpoint by another program the store goes on, also beside its rows.

    The pages of those are in the -wal alone, so that the file is smaller than the database.
    """
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_autocheckpoint=0")
        other.execute("CREATE TABLE large (data)")
        other.execute("INSERT INTO large VALUES (zeroblob(1000000))")
        other.commit()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pool = SqlitePool(path, "wal")
        await pool.write(adding("before"))
        other.execute("DELETE FROM large")
        other.commit()
        large = os.stat(path).st_size  # noqa: PTH116 - blocks for a moment only
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert os.stat(path).st_size < large  # noqa: PTH116 - as above
        other.execute("INSERT INTO large VALUES (zeroblob(?))", (grown,))
        other.commit()
        await pool.write(adding("after"))
    await pool.write(adding("again"))
    await pool.close()
    assert committed(path) == {"after", "again", "before"}


@harms
async def test_a_refused_store_changes_no_file(harm: Harm, pool: SqlitePool, path: Path) -> None:
    """Using and closing a store on replaced files leaves what is there now, byte for byte."""
    harm(path)
    before = contents(path.parent)
    await refused(pool)
    await pool.close()
    assert contents(path.parent) == before


@harms
async def test_a_fork_of_a_refused_store_changes_no_file(
    harm: Harm, pool: SqlitePool, path: Path
) -> None:
    """A fork, before which connections are closed, changes nothing either, and nothing is lost."""
    harm(path)
    before = contents(path.parent)
    with warnings.catch_warnings():
        # Newer interpreters warn of a fork beside threads, which this tests.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os._exit(0)
    await asyncio.to_thread(os.waitpid, child, 0)
    assert contents(path.parent) == before
    await refused(pool)
    await pool.close()
    assert contents(path.parent) == before
    [saved] = path.parent.glob("*-rescued")
    assert "before" in committed(saved)


@pytest.mark.parametrize("harm", BOTH_MODES.values(), ids=BOTH_MODES.keys())
async def test_a_file_replaced_before_the_first_connection_is_refused(
    harm: Harm, path: Path
) -> None:
    """The file that was there at the start counts, also if no connection was open yet."""
    pool = SqlitePool(path, "wal")
    harm(path)
    before = contents(path.parent) if path.parent.exists() else {}
    await refused(pool)
    await pool.close()
    assert contents(path.parent) == before


@pytest.mark.parametrize("harm", BOTH_MODES.values(), ids=BOTH_MODES.keys())
async def test_a_store_outside_wal_mode_refuses_too(harm: Harm, path: Path) -> None:
    """With a rollback journal, a store on a replaced file refuses as well."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    pool = SqlitePool(path, "delete")
    assert await pool.write(adding("before")) == 1
    harm(path)
    before = contents(path.parent)
    await refused(pool)
    await pool.close()
    assert contents(path.parent) == before


async def test_a_write_is_refused_if_the_file_goes_during_it(pool: SqlitePool, path: Path) -> None:
    """A file that is replaced inside the unit or at the commit makes the write fail."""

    def unit(connection: object) -> int:
        move_over(path)
        return 1

    with pytest.raises(TokenStorageError) as caught:
        await pool.write(unit)
    assert caught.value.code == "replaced"


async def test_a_write_is_refused_if_the_file_goes_at_its_commit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted while SQLite commits makes every write of the commit fail."""
    connect = sqlite3.connect

    def traced(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.set_trace_callback(
            lambda statement: path.unlink() if statement == "COMMIT" else None
        )
        return connection

    pool = SqlitePool(path, "wal")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "Connection", traced)
        with pytest.raises(TokenStorageError) as caught:
            await pool.write(adding("lost"))
    assert caught.value.code == "replaced"
    await pool.close()


async def test_a_file_that_is_put_back_is_used_again(pool: SqlitePool, path: Path) -> None:
    """If the same file gets its name back, the store continues, and nothing is lost."""
    move_away(path)
    await refused(pool)
    path.with_name("away.db").rename(path)
    pool.check()
    assert await pool.write(adding("after")) == 1
    await pool.close()
    assert committed(path) == {"before", "after"}


@harms
async def test_a_closing_store_saves_what_it_had_open(
    harm: Harm, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was acknowledged before a file was replaced is saved, and a restore puts it back."""
    pool = SqlitePool(path, "wal")
    assert await pool.write(adding("before")) == 1
    harm(path)
    await refused(pool)
    await pool.close()
    [saved] = path.parent.glob("*-rescued")
    assert str(saved) in caplog.text
    assert "before" in committed(saved)
    # A link belongs to who made it, and is removed by hand.
    for suffix in ("", "-wal"):
        remove_link(sibling(path, suffix))
    assert newest_backup(path).backup.path == saved
    await asyncio.to_thread(restored, path, saved)
    assert "before" in committed(path)


async def test_a_copy_that_cannot_be_made_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the folder is gone, the store still closes, and the log has the reason."""
    pool = SqlitePool(path, "wal")
    assert await pool.write(adding("before")) == 1
    path.parent.rename(path.parent.with_name("away"))
    await refused(pool)
    await pool.close()
    assert "could not be saved (" in caplog.text


def test_a_store_closes_if_its_files_cannot_be_examined() -> None:
    """If the folder was closed to the server's user, closing raises nothing and leaves the -wal."""
    with open_folder() as folder:
        (own := folder / "own").mkdir()
        own.chmod(0o777)
        assert as_nobody(_CLOSED_FOLDER, own / "sub" / "tokens.db") == "closed\n['tokens.db-wal']"


_CLOSED_FOLDER = """
async def main(path):
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
        path.parent.chmod(0)
    print("closed")
    path.parent.chmod(0o700)
    print([file.name for file in path.parent.glob("*-wal")])
asyncio.run(main(Path(sys.argv[1])))
"""


async def test_other_programs_on_the_same_file_are_no_reason(pool: SqlitePool, path: Path) -> None:
    """Another program that opens, writes, checkpoints, vacuums and closes changes no identity."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("INSERT INTO browser_sessions VALUES ('other', 'u', 1, 2)")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute("VACUUM")
    write_and_die(path)
    assert await pool.write(adding("after")) == 1
    assert await pool.read(count) == 4


def test_without_the_check_a_write_is_acknowledged_and_lost(path: Path) -> None:
    """Negative control: plain SQLite commits into files without a name, and deletes a new -wal."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO browser_sessions VALUES ('before', 'u', 1, 2)")
        replace_wal(path)
        connection.execute("INSERT INTO browser_sessions VALUES ('lost', 'u', 1, 2)")
        wal = sibling(path, "-wal").read_bytes()
        assert b"foreign" in wal
        assert b"lost" not in wal + path.read_bytes()
    assert not sibling(path, "-wal").exists()
    assert "foreign" not in committed(path)


async def test_a_store_on_a_damaged_file_closes_every_connection(path: Path) -> None:
    """Its last read fails; the connection that is open as long as any other is closed too."""
    pool = SqlitePool(path, "wal")
    # Nothing is written: page 1 would be in the -wal.
    assert await pool.read(count) == 0
    guard = pool._guard
    assert guard is not None
    await asyncio.to_thread(path.write_bytes, b"no database any more" * 500)
    await pool.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        guard.execute("SELECT 1")


@pytest.mark.parametrize("mtime", ["new", "old"])
async def test_another_database_written_over_an_open_one_is_refused(
    mtime: str, path: Path, tmp_path: Path
) -> None:
    """A copy into the same file keeps its inode: its mark is another one, and nothing is saved."""
    other = tmp_path / "other.db"
    await asyncio.to_thread(prepare, other)
    second = SqlitePool(other, "wal")
    await second.write(adding("foreign"))
    await second.close()
    content = await asyncio.to_thread(other.read_bytes)
    pool = SqlitePool(path, "wal")
    assert await pool.write(adding("before")) == 1
    before = await asyncio.to_thread(path.read_bytes)
    await asyncio.to_thread(overwrite, path, content, mtime)
    with refuses("replaced", "holds another database now"):
        await pool.write(adding("lost"))
    with refuses("replaced"):
        await pool.read(count)
    with refuses("replaced"):
        pool.check()
    # If it is put back, the store goes on.
    await asyncio.to_thread(overwrite, path, before, "new")
    assert await pool.write(adding("after")) == 1
    await asyncio.to_thread(overwrite, path, content, mtime)
    with refuses("replaced"):
        await pool.write(adding("lost"))
    await pool.close()
    assert not [name for name in names(path.parent) if name.endswith("-rescued")]


def overwrite(path: Path, content: bytes, mtime: str) -> None:
    """Write into a file without a new one, as ``cp`` and ``cp -p`` do."""
    with path.open("r+b") as file:
        file.write(content.ljust(path.stat().st_size, b"\0"))
    if mtime == "old":
        os.utime(path, (1e9, 1e9))
