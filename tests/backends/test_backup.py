"""A backup, manual or automatic, is complete, private, and kept as long as it should be."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import backup_files
from nextcloud_mcp_server.maintenance.backup import back_up
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.shapes import at, at_head
from tests.support.snapshot import snapshot


def test_a_backup_is_private_verified_and_one_file(path: Path) -> None:
    """The name of a manual backup has its time, revision and kind; it has no companions."""
    at("006").write(path, ["journal_mode=WAL"])
    made = back_up(path)
    assert made.name.startswith("tokens.db.backup-")
    assert made.name.endswith("-006-manual")
    assert made.stat().st_mode & 0o777 == 0o600
    assert made.read_bytes()[18:20] == b"\x01\x01", "a file in WAL mode is never alone for long"
    invariants.same_content(snapshot(path), snapshot(made))
    beside = {name for name in names(path.parent) if "backup" in name}
    assert beside == {made.name, f"{made.name}.json"}


def test_a_backup_is_written_to_a_given_path(path: Path, tmp_path: Path) -> None:
    """Another folder and name are accepted; an existing file is not overwritten."""
    at("006").write(path)
    target = tmp_path / "elsewhere.db"
    assert back_up(path, target) == target
    content = target.read_bytes()
    assert refused(lambda: back_up(path, target)).code == "bad-path"
    assert target.read_bytes() == content
    assert refused(lambda: back_up(path, tmp_path / "no" / "folder.db")).code == "bad-path"


@pytest.mark.parametrize("name", ["", "/dev/null", "x" * 240, "link"])
def test_the_remedy_for_a_bad_path_is_about_the_backup(
    path: Path, tmp_path: Path, name: str
) -> None:
    """A folder, a device, a long name and a link: the path of the database is not the problem."""
    at("009").write(path)
    (tmp_path / "link").symlink_to("nowhere")
    error = refused(lambda: back_up(path, tmp_path / name))
    assert error.code == "bad-path"
    assert error.remedy == "Give the backup another path, of a file that is not there yet."


@contextmanager
def writing(path: Path) -> Iterator[list[int]]:
    """Let another connection add entries; yield the number that it has committed."""
    done = [0]
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
            while not stop.is_set():
                connection.execute(
                    "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'live', 'x')"
                )
                done[0] += 1
                time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_database_in_use_is_backed_up(mode: str, path: Path) -> None:
    """While others write, a backup has all that was committed when it began."""
    at_head(path, f"journal_mode={mode}")
    with writing(path) as done:
        while done[0] < 5:
            time.sleep(0.01)
        for _ in range(3):
            before = done[0]
            made = back_up(path)
            with closing(sqlite3.connect(made)) as connection:
                sql = "SELECT count(*) FROM audit_logs WHERE event = 'live'"
                [(found,)] = connection.execute(sql)
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert before <= found <= done[0] + 1


def test_a_backup_is_one_snapshot(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit during the backup is not in it, and is no mismatch."""
    at_head(path)
    before = snapshot(path)
    summary = backups.summary

    def summary_and_write(connection: sqlite3.Connection) -> object:
        found = summary(connection)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("INSERT INTO browser_sessions VALUES (hex(randomblob(8)), 'u', 1, 2)")
        return found

    monkeypatch.setattr(backups, "summary", summary_and_write)
    invariants.same_content(before, snapshot(back_up(path)))


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_an_open_transaction_is_not_backed_up(mode: str, path: Path) -> None:
    """Uncommitted changes are not in the backup, and do not stop it."""
    at("010").write(path, [f"journal_mode={mode}"])
    before = snapshot(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM audit_logs")
        made = back_up(path)
        connection.execute("ROLLBACK")
    invariants.same_content(before, snapshot(made))


def test_a_backup_follows_a_link(path: Path) -> None:
    """The backup of a linked database is beside the file."""
    at("006").write(path)
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    assert back_up(link).parent == path.parent


@pytest.mark.parametrize("offset", [0, 8], ids=["kind of the page", "cells of the page"])
@pytest.mark.parametrize("name", ["refresh_tokens", "sqlite_autoindex_refresh_tokens_1"])
def test_a_damaged_page_is_corrupt(name: str, offset: int, path: Path) -> None:
    """A damaged page of a table or an index has the code and remedy of damage."""
    at_head(path, "journal_mode=DELETE")
    with closing(sqlite3.connect(path)) as connection:
        ((size,),) = connection.execute("PRAGMA page_size")
        question = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        ((page,),) = connection.execute(question, [name])
    with path.open("r+b") as file:
        file.seek((page - 1) * size + offset)
        file.write(b"\xff" * 20)
    error = refused(lambda: back_up(path))
    assert (error.code, f"db restore --newest -d {path}" in error.remedy) == ("corrupt", True)
    assert not {name for name in names(path.parent) if "backup" in name}


@pytest.mark.parametrize("code", ["foreign", "not-a-database", "corrupt"])
def test_a_refused_database_is_not_backed_up(code: str, path: Path) -> None:
    """No backup is made of a damaged file or of another application's database."""
    if code == "foreign":
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE notes (id INTEGER)")
    elif code == "corrupt":
        at("006").write(path)
        os.truncate(path, path.stat().st_size - 4096 * 3)
    else:
        path.write_bytes(b"text" * 1024)
    assert refused(lambda: back_up(path)).code == code
    assert not {name for name in names(path.parent) if "backup" in name}


def test_only_the_newest_five_automatic_backups_are_kept(path: Path) -> None:
    """Manual backups, other files and backups of other databases stay."""
    at("006").write(path)
    manual = back_up(path)
    others = [
        "tokens.db.backup",
        "tokens.db.backup-old",
        "tokens.db.backup-20200101T000000Z-006",
        "tokens.db.backup-20200101T000000.000000Z-006.gz",
        "tokens.db.backup-20200101T000000.000000Z-before-upgrade",
        "xtokens.db.backup-20200101T000000.000000Z-006",
        "other.db.backup-20200101T000000.000000Z-006",
    ]
    for name in others:
        path.with_name(name).write_text("mine")
    made = []
    for _ in range(7):
        made.append(prepare(path).backup)
        made.append(downgrade(path, "006").backup)
    assert backup_files.automatic_backups(path) == made[-5:]
    assert {manual.name, *others} <= names(path.parent)


def test_an_incomplete_backup_is_deleted_after_an_hour(path: Path) -> None:
    """The copy of a killed backup contains secrets: the next start deletes it, on any clock."""
    at("006").write(path)
    old = [".tokens.db.backup-x.1.partial", ".tokens.db.backup-x.1.partial-journal"]
    future = ".tokens.db.backup-z.3.partial"
    path.with_name(future).touch()
    os.utime(path.with_name(future), (4e9, 4e9))
    others = [".tokens.db.backup-y.2.partial", ".other.db.backup-x.1.partial", ".tokens.db.partial"]
    for name in (*old, *others):
        path.with_name(name).touch()
    for name in (*old, *others[1:]):
        os.utime(path.with_name(name), (1, 1))
    prepare(path)
    left = names(path.parent)
    assert left.isdisjoint([*old, future])
    assert set(others) <= left


def test_a_failed_pruning_stops_no_start(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder cannot be listed, the start succeeds."""
    at("006").write(path)

    def fail(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(backup_files, "find_backups", fail)
        assert prepare(path).after == HEAD


def test_a_copy_with_other_rows_is_no_backup(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the copy differs from its source, nothing is migrated and no file is left."""
    at("006").write(path)
    before = snapshot(path)
    answers = iter([backups.Summary(None, {"a": 1}), backups.Summary(None, {"a": 2})])
    with monkeypatch.context() as patch:
        patch.setattr(backups, "summary", lambda _: next(answers))
        assert refused(lambda: prepare(path)).code == "backup-failed"
        answers = iter([backups.Summary(None, {"a": 1}), backups.Summary(None, {"a": 2})])
        assert refused(lambda: back_up(path)).code == "backup-failed"
    invariants.same_content(before, snapshot(path))
    assert names(path.parent) == {"tokens.db", "tokens.db.lock"}
