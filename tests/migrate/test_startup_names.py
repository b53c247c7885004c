"""Any file name works, and all names of one file are one database."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import lock
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.migrate.plan import Action
from tests.migrate.databases import in_thread
from tests.support.by_path import inspect, prepare
from tests.support.contents import KEY
from tests.support.errors import refused, refuses
from tests.support.files import names
from tests.support.shapes import at


def test_relative_paths_are_used_from_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without a folder is in the current folder."""
    monkeypatch.chdir(path.parent)
    prepare(Path("tokens.db"))
    assert {"tokens.db", "tokens.db.lock"} <= names(path.parent)
    assert prepare(Path("../data/tokens.db")).action is Action.NOTHING


@pytest.mark.parametrize(
    "name",
    [
        "a?b.db",
        "a#b.db",
        "a%20b.db",
        "with space.db",
        "Bücher-用户-🙂.db",
        "a'b\".db",
        "a\nb.db",
        "-d",
        os.fsdecode(b"a\xff\xfe.db"),
    ],
)
async def test_any_name_works(name: str, path: Path) -> None:
    """No step of a start gives a character of the name a special meaning."""
    database = path.with_name(name)
    at("006").write(database)
    async with RefreshTokenStorage(database, encryption_key=KEY) as storage:
        assert len(await storage.list_user_ids()) == 12
        assert storage.outcome is not None
        assert storage.outcome.backup is not None
        assert storage.outcome.backup.name.startswith(f"{name}.backup-")
    assert prepare(database).action is Action.NOTHING
    assert all(other.startswith(name) for other in names(path.parent))


def test_two_slashes_are_one_path(path: Path) -> None:
    """A path that begins with two slashes names no host."""
    database = Path(f"/{path}")
    assert str(database).startswith("//")
    assert prepare(database).action is Action.CREATE
    assert prepare(database).action is Action.NOTHING


def test_the_longest_name_can_be_migrated(path: Path) -> None:
    """The longest accepted name leaves room for the names of the files beside it."""
    database = path.with_name("x" * 175)
    at("006").write(database)
    outcome = prepare(database)
    assert outcome.backup is not None
    assert refused(lambda: prepare(path.with_name("x" * 176))).code == "bad-path"


def test_two_names_of_one_file_have_one_lock(path: Path) -> None:
    """A link and its file are never migrated at once; backups are beside the file."""
    at("006").write(path)
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    with lock.guard(path, 0):
        error = in_thread(lambda: refused(lambda: prepare(link, lock_timeout=0)))
    assert error.code == "lock-timeout"
    outcome = prepare(link)
    assert outcome.backup is not None
    assert outcome.backup.parent == path.parent


def test_a_hard_link_is_refused(path: Path) -> None:
    """Each name has a journal and a lock of its own: what one server stores, the other loses."""
    prepare(path)
    other = path.with_name("other.db")
    other.hardlink_to(path)
    for name in (path, other):
        with refuses("bad-path", f"{name} has 2 names"):
            prepare(name)
    assert inspect(path).refusal is None
    other.unlink()
    prepare(path)


@pytest.mark.parametrize(
    "name", [".tokens.db.backup-1.ab12cd.partial", "tokens.db.damaged-20260101T000000Z"]
)
def test_a_name_that_a_killed_restore_left_is_accepted(name: str, path: Path) -> None:
    """This program gives a file a second name for a moment, and opens none of these."""
    prepare(path)
    path.with_name(name).hardlink_to(path)
    prepare(path)
    path.with_name("other.db").hardlink_to(path)
    with refuses("bad-path", "has 2 names"):
        prepare(path)


@pytest.mark.parametrize("suffix", [".lock", ".inuse", ".key", "-wal", "-shm", "-journal"])
def test_the_name_of_a_companion_is_refused(suffix: str, path: Path) -> None:
    """A file beside a database is no database of its own; without that database it may be."""
    companion = Path(f"{path}{suffix}")
    prepare(path)
    with refuses("bad-path", f"belongs to {path}"):
        prepare(companion)


def test_a_new_database_beside_old_backups_is_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A database that is gone or emptied is created again, and the remedy is told."""
    prepare(path)
    assert "beside it" not in caplog.text
    back_up(path)
    path.unlink()
    prepare(path)
    assert f"{path} has no table, but a backup of it is beside it" in caplog.text
    assert f"db restore --newest -d {path}" in caplog.text
