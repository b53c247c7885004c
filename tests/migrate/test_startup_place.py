"""Folders that cannot be written, disks that cannot lock or fail, and files in use or crashed."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.backends.sqlite import lock
from nextcloud_mcp_server.backends.sqlite.backup_files import automatic_backups
from nextcloud_mcp_server.backends.sqlite.in_use import hold
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.crypto.verification import verified_keyring
from tests.cli.places import execute
from tests.migrate.databases import crash_in_a_write
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.shapes import at
from tests.support.snapshot import snapshot
from tests.support.unprivileged import NOBODY, as_nobody, open_folder


@contextmanager
def read_only_folder(revision: str) -> Iterator[Path]:
    """Yield a database in WAL mode, closed cleanly, where another user may only read."""
    with open_folder() as folder:
        path = folder / "tokens.db"
        prepare(path) if revision == HEAD else at(revision).write(path, ["journal_mode=WAL"])
        for file in folder.iterdir():
            file.chmod(0o644)
        folder.chmod(0o555)
        yield path


_REPORT = """
try:
    outcome = prepare(Path(sys.argv[1]))
    print(outcome.action, outcome.warning)
except TokenStorageError as error:
    print(error.code, error.message)
"""


@pytest.mark.parametrize(
    ("revision", "action", "reason"),
    [
        (HEAD, "nothing", "could not be locked (tokens.db.lock: Permission denied)"),
        ("009", "read-only", "Permission denied"),
    ],
)
def test_in_a_read_only_folder_only_head_is_accepted(
    revision: str, action: str, reason: str
) -> None:
    """Without a lock, a database at head is served with a warning, and no other one."""
    with read_only_folder(revision) as path:
        before = invariants.disk(path)
        output = as_nobody(_REPORT, path)
        assert output.startswith(f"{action} ")
        assert reason in output
        assert invariants.disk(path) == before


@contextmanager
def nobodys_folder() -> Iterator[Path]:
    """Yield a database behind head; it and its folder belong to the user of ``as_nobody``."""
    with open_folder() as folder:
        path = folder / "tokens.db"
        at("010", "portable").write(path)
        path.chmod(0o600)
        for place in (folder, path):
            os.chown(place, NOBODY, NOBODY)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_files_made_by_root_belong_to_the_owner_of_the_database() -> None:
    """After an upgrade by root, the server's user may use the locks, backup and manifest."""
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
def test_root_changes_no_owner_of_an_existing_file() -> None:
    """An existing lock may be a hard link to any file, so that its owner stays."""
    with nobodys_folder() as path:
        secret = path.with_name("secret")
        secret.touch(0o600)
        os.link(secret, lock.lock_path(path))
        prepare(path)
        assert secret.stat().st_uid == 0


def test_a_lock_of_another_user_is_named() -> None:
    """The error names the lock file and not the folder, and nothing is changed."""
    with nobodys_folder() as path:
        file = lock.lock_path(path)
        file.touch(0o600)
        before = invariants.disk(path)
        output = as_nobody(_REPORT.replace("error.message", "error.message, error.remedy"), path)
        assert f"{path} has to be changed, and its lock {file} cannot be opened: it " in output
        assert "belongs to user root" in output
        assert "folder cannot be written" not in output
        assert f"chown {NOBODY} {file}" in output
        assert invariants.disk(path) == before


@pytest.mark.parametrize(
    ("name", "folder"), [("new.db", ""), ("sub/new.db", "sub"), ("a/b/c/new.db", "a")]
)
def test_a_database_that_cannot_be_created_names_the_folder_that_is_there(
    name: str, folder: str
) -> None:
    """The message says "created", and the remedy names no folder that does not exist."""
    with open_folder() as closed:
        path = closed / name
        output = as_nobody(_REPORT.replace("error.message", "error.message, error.remedy"), path)
        if folder:
            assert output == (
                f"read-only {path} has to be created, and the folder {closed / folder} cannot be "
                f"created in {closed} (Permission denied). Give this user write access to "
                f"{closed}, or choose another path in TOKEN_STORAGE_DB or -d."
            )
        else:
            assert output.startswith(
                f"read-only {path} has to be created, and its folder {closed} cannot be written "
            )
            assert output.endswith(f" Give this user write access to {closed}, then try again.")


def test_a_crashed_wal_in_a_read_only_folder_is_refused() -> None:
    """If the rows in the WAL cannot be read, nothing is served without them."""
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
    """If the disk is too full for a lock file, the code is `disk-full`."""
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
def test_a_file_system_that_cannot_lock(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without flock, a database at head is served with a warning, and no other one."""
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


def test_a_disk_that_fails_after_the_commit_stops_no_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If only the switch to WAL fails, the migrated database is served in its old mode."""
    at("009").write(path)
    real = sqlite3.connect

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql == "PRAGMA journal_mode=wal":
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "Connection", lambda p, **o: real(p, factory=Failing, **o))
    outcome = prepare(path)
    assert (outcome.after, outcome.journal_mode) == (HEAD, "delete")
    assert "stays in its journal mode for now (disk I/O error)" in caplog.text


def test_a_database_in_use_keeps_its_journal_until_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader prevents the switch to WAL, not the start."""
    monkeypatch.setattr(sqlite3, "Connection", partial(sqlite3.connect, timeout=0.05))
    prepare(path)
    execute(path, "PRAGMA journal_mode=DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM refresh_tokens").fetchone()
        assert prepare(path).journal_mode == "delete"
    assert prepare(path).journal_mode == "wal"


def test_a_writer_is_waited_for(path: Path) -> None:
    """A write transaction delays the migration, and its changes stay."""
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


def test_a_hot_journal_is_rolled_back(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The write of a crashed writer is undone with a warning, then the file is upgraded."""
    at("006").write(path)
    before = snapshot(path)
    crash_in_a_write(path)
    assert invariants.companions(path) == {"-journal"}
    with caplog.at_level(logging.WARNING):
        outcome = prepare(path)
    assert "has the journal of a crashed write" in caplog.text
    assert (outcome.before, outcome.after) == ("006", HEAD)
    assert len(snapshot(path).rows["refresh_tokens"]) == len(before.rows["refresh_tokens"])


def test_a_hot_journal_of_a_linked_database_is_found(path: Path) -> None:
    """The journal is beside the file, not beside the link."""
    at("006").write(path)
    crash_in_a_write(path)
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    assert prepare(link).before == "006"
    assert names(link.parent) == {"data", "link.db"}


def test_a_migration_closes_the_backups_to_others(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They hold every token, and so do those that an earlier program made."""
    at("006").write(path)
    prepare(path, target="010")
    [old] = automatic_backups(path)
    for file in (old, manifest_path(old)):
        file.chmod(0o644)
    prepare(path)
    for backup in automatic_backups(path):
        for file in (backup, manifest_path(backup)):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"could read {old} (mode 0644)" in caplog.text
