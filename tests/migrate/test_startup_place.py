"""Folders that cannot be written, disks that cannot lock, fail or are shared, and busy files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import lock
from nextcloud_mcp_server.backends.sqlite.in_use import hold
from nextcloud_mcp_server.crypto.keyfile import verified_keyring
from nextcloud_mcp_server.filesystem import mounts
from nextcloud_mcp_server.migrate.plan import Action
from tests.migrate.databases import sql
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.errors import refused
from tests.support.revisions import HEAD
from tests.support.shapes import at
from tests.support.snapshot import snapshot
from tests.support.unprivileged import NOBODY, as_nobody, open_folder


@contextmanager
def read_only_folder(revision: str, *, mode: int = 0o555) -> Iterator[Path]:
    """A database in WAL mode, closed cleanly, where another user may only read."""
    with open_folder() as folder:
        path = folder / "tokens.db"
        prepare(path) if revision == HEAD else at(revision).write(path, ["journal_mode=WAL"])
        for file in folder.iterdir():
            file.chmod(0o644)
        folder.chmod(mode)
        yield path


_REPORT = """
try:
    outcome = prepare(Path(sys.argv[1]))
    print(outcome.action, outcome.warning)
except TokenStorageError as error:
    print(error.code, error.message)
"""


def test_at_head_in_a_read_only_folder_it_starts_with_a_warning() -> None:
    """Where nothing can be locked and nothing has to be done, the start goes on and says so."""
    with read_only_folder(HEAD) as path:
        before = invariants.disk(path)
        said = as_nobody(_REPORT, path)
        assert said.startswith("nothing ")
        assert "could not be locked (tokens.db.lock: Permission denied)" in said
        assert invariants.disk(path) == before


def test_behind_in_a_read_only_folder_it_refuses() -> None:
    """Where something has to be done and cannot be, the start names folder and reason."""
    with read_only_folder("009") as path:
        before = invariants.disk(path)
        said = as_nobody(_REPORT, path)
        assert said.startswith("read-only ")
        assert "Permission denied" in said
        assert invariants.disk(path) == before


@contextmanager
def nobodys_folder() -> Iterator[Path]:
    """A database behind head that belongs to the user of ``as_nobody``, as its folder does."""
    with open_folder() as folder:
        path = folder / "tokens.db"
        at("010", "portable").write(path)
        path.chmod(0o600)
        for place in (folder, path):
            os.chown(place, NOBODY, NOBODY)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_root_makes_belongs_to_the_databases_user() -> None:
    """One upgrade by root leaves locks, backup and manifest that the server's user may use."""
    with nobodys_folder() as path:
        prepare(path)
        verified_keyring(None, lambda _: (), path)
        share = hold(path)
        assert share is not None
        share.release()
        made = {file.name: file.stat().st_uid for file in path.parent.iterdir()}
        assert {f"tokens.db{name}" for name in ("", ".lock", ".inuse", ".key")} < made.keys()
        assert len([name for name in made if ".backup-" in name]) == 2
        assert set(made.values()) == {NOBODY}, made
        again = "downgrade(Path(sys.argv[1]), '010')\n"
        assert as_nobody(again + _REPORT, path) == "upgrade"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_gives_away_nothing_that_was_there() -> None:
    """A lock that lies there already may be a second name of anything, and stays whose it is."""
    with nobodys_folder() as path:
        secret = path.with_name("secret")
        secret.touch(0o600)
        os.link(secret, lock.lock_path(path))
        prepare(path)
        assert secret.stat().st_uid == 0


def test_a_lock_of_another_user_is_named() -> None:
    """Where the lock file is in the way, the folder is not blamed, and nothing is changed."""
    with nobodys_folder() as path:
        file = lock.lock_path(path)
        file.touch(0o600)
        before = invariants.disk(path)
        said = as_nobody(_REPORT.replace("error.message", "error.message, error.remedy"), path)
        assert f"{path} has to be changed, and its lock {file} cannot be opened: it " in said
        assert "belongs to user root" in said
        assert "folder cannot be written" not in said
        assert f"chown {NOBODY} {file}" in said
        assert invariants.disk(path) == before


def test_a_store_in_a_read_only_folder_reads_and_says_why_it_does_not_write() -> None:
    """A start that went on serves what is there; a write is refused by its name."""
    code = """
async def main(path):
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        print(await storage.list_user_ids())
        try:
            await storage.store_refresh_token("alice", "token")
        except TokenStorageError as error:
            print(error.code)
asyncio.run(main(Path(sys.argv[1])))
"""
    with read_only_folder(HEAD) as path:
        before = invariants.disk(path)
        assert as_nobody(code, path).splitlines() == ["[]", "read-only"]
        assert invariants.disk(path) == before


def test_a_crashed_wal_in_a_read_only_folder_is_not_read_past() -> None:
    """Where rows are in the WAL and it cannot be read, nothing is served without them."""
    with open_folder() as folder:
        other = folder / "other.db"
        at("010", "portable").write(other)
        prepare(other)
        with closing(sqlite3.connect(other, isolation_level=None)) as connection:
            connection.execute("DELETE FROM refresh_tokens WHERE user_id = 'alice'")
            path = folder / "data" / "tokens.db"
            path.parent.mkdir()
            for suffix in ("", "-wal"):
                shutil.copy(f"{other}{suffix}", f"{path}{suffix}")
                Path(f"{path}{suffix}").chmod(0o644)
        path.parent.chmod(0o555)
        assert as_nobody(_REPORT, path).startswith("read-only ")


def test_without_space_for_the_lock_nothing_is_started(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk on which no lock file can be made is told as what it is."""
    at("006").write(path)
    before = invariants.disk(path)
    real_open = os.open

    def full(name: str | bytes | os.PathLike[str], flags: int, *rest: int) -> int:
        if os.fspath(name) == str(lock.lock_path(path)):
            raise OSError(28, "No space left on device", str(name))
        return real_open(name, flags, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        error = refused(lambda: prepare(path))
    assert error.code == "disk-full"
    assert invariants.disk(path) == before


@pytest.mark.parametrize("number", [38, 37, 95, 22])
def test_a_file_system_that_cannot_lock_is_told(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without flock a database at head starts with a warning, and every other one is refused."""
    at("006").write(path)
    prepare(path)
    old = path.with_name("old.db")
    at("006").write(old)
    before = invariants.disk(old)

    def no_lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_lock)
    assert os.strerror(number) in prepare(path).warning
    assert refused(lambda: prepare(old)).code == "lock-unavailable"
    invariants.untouched(before, invariants.disk(old))


def test_a_database_on_a_network_share_is_kept_out_of_wal(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a network file system the journal mode is DELETE, and the next start asks for no more."""
    monkeypatch.setattr(mounts, "on_network", lambda _: True)
    assert prepare(path).journal_mode == "delete"
    assert "network file system" in caplog.text
    again = prepare(path)
    assert (again.action, again.journal_mode) == (Action.NOTHING, "delete")


def test_a_database_that_came_to_a_network_share_leaves_wal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At head and in WAL on a network file system, it is taken out of WAL once, and stays so."""
    prepare(path)
    monkeypatch.setattr(mounts, "on_network", lambda *_: True)
    assert [prepare(path).journal_mode for _ in range(2)] == ["delete", "delete"]


def test_a_disk_that_fails_after_the_commit_stops_no_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where only the switch to WAL fails, the migrated database is served in its old mode."""
    at("009").write(path)
    real = sqlite3.connect

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *_: object) -> sqlite3.Cursor:
            if sql == "PRAGMA journal_mode=wal":
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return super().execute(sql)

    monkeypatch.setattr(sqlite3, "connect", lambda p, **o: real(p, factory=Failing, **o))
    outcome = prepare(path)
    assert (outcome.after, outcome.journal_mode) == (HEAD, "delete")
    assert "stays in its journal mode for now (disk I/O error)" in caplog.text


def test_a_database_in_use_keeps_its_journal_until_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is in the way of WAL costs a warning and no more."""
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.05))
    prepare(path)
    sql(path, "PRAGMA journal_mode=DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM refresh_tokens").fetchone()
        assert prepare(path).journal_mode == "delete"
    assert prepare(path).journal_mode == "wal"


def test_a_database_that_is_written_to_meanwhile_is_waited_for(path: Path) -> None:
    """A writer that holds the database for a moment delays the migration, and loses nothing."""
    at("006").write(path)
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM refresh_tokens WHERE user_id = 'alice'")

    def end() -> None:
        writer.execute("COMMIT")
        writer.close()

    timer = threading.Timer(0.3, end)
    timer.start()
    outcome = prepare(path)
    timer.join()
    assert outcome.after == HEAD
    assert "alice" not in {r["user_id"][1] for r in snapshot(path).rows["refresh_tokens"]}
