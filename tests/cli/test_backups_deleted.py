"""`db backups --keep` and `--older-than`: what is deleted, after a question."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.backup_files import automatic_backups, find_backups
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backup_deletion import delete_backups, old_backups
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.conftest import Db
from tests.maintenance.restore.harm import flip
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.shapes import at


@pytest.fixture
def made(db: Db) -> list[Path]:
    """The backup from before an upgrade and seven of a user, oldest first."""
    at("010", "portable").write(db.path)
    upgrade_database(db.path)
    [before] = automatic_backups(db.path)
    return [before, *(back_up(db.path) for _ in range(7))]


def _left(path: Path) -> list[Path]:
    return [one.path for one in find_backups(path)]


def test_all_but_the_newest_are_deleted(made: list[Path], db: Db) -> None:
    """They are listed with their manifests gone; the one from before the upgrade stays."""
    done = db("backups", "--keep", "3", "--yes")
    assert (done.status, done.out) == (0, f"deleted 4 backups of {db.path}, 4 left\n")
    assert [line.split()[-1] for line in done.err.splitlines()] == [m.name for m in made[4:0:-1]]
    assert _left(db.path) == [made[0], *made[5:]]
    assert not any(manifest_path(one).exists() for one in made[1:5])
    again = db("backups", "--keep", "3", "--yes")
    assert (again.status, again.out) == (0, f"deleted 0 backups of {db.path}, 4 left\n")


def test_the_document_names_what_was_deleted(made: list[Path], db: Db) -> None:
    """And has the backups that are left, as the list has them."""
    document = json.loads(db("backups", "--keep", "6", "--yes", "--json").out)
    assert document["deleted"] == [str(made[1])]
    assert [one["backup"] for one in document["backups"]] == [str(m) for m in _left(db.path)[::-1]]


def test_it_asks_first(made: list[Path], db: Db) -> None:
    """Without a yes nothing is deleted, and the remedy is the same command with --yes."""
    before = names(db.path.parent)
    done = db("backups", "--keep", "3", "--older-than", "0d")
    assert (done.status, made[1].name in done.err) == (1, True)
    assert f"db backups --keep 3 --older-than 0h -d {db.path} --yes" in done.err
    assert names(db.path.parent) == before


def test_the_last_intact_one_is_never_deleted(made: list[Path], db: Db) -> None:
    """If the newest ones are damaged, an older one stays, although it is old."""
    for newer in made[-2:]:
        flip(newer)
    assert db("backups", "--keep", "2", "--yes").status == 0
    assert _left(db.path) == [made[0], *made[-3:]]


def test_only_what_is_older_is_deleted(made: list[Path], db: Db) -> None:
    """The age is that of the name; the newest five stay unless --keep has another number."""
    old = []
    for number, one in enumerate(made[1:5]):
        name = one.name.replace(one.name.split("-")[1], f"2026010{number + 1}T000000.000000Z")
        old.append(one.rename(one.with_name(name)))
        manifest_path(one).rename(manifest_path(old[-1]))
    assert db("backups", "--older-than", "99999w", "--yes").out.startswith("deleted 0 ")
    assert db("backups", "--older-than", "30d", "--yes").out.startswith("deleted 2 ")
    assert _left(db.path) == [made[0], *old[2:], *made[5:]]
    assert db("backups", "--older-than", "30d", "--keep", "1", "--yes").status == 0
    assert _left(db.path) == [made[0], *made[5:]]


def test_a_clock_that_is_ahead_makes_nothing_old(made: list[Path], db: Db) -> None:
    """The age is counted to the newest backup if that is earlier than now."""
    found = find_backups(db.path)
    assert [one.path for one in found] == made
    assert old_backups(db.path, keep=1, older_than=timedelta(0)) == found[1:-1]
    assert old_backups(db.path, keep=1, older_than=timedelta(hours=1)) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("--keep", "0"),
        ("--keep", "-1"),
        ("--keep", "all"),
        ("--older-than", "30"),
        ("--older-than", "-1d"),
        ("--older-than", ""),
        ("--older-than", "1e9d"),
        ("--keep", "3", "--verify"),
        ("--yes",),
    ],
)
def test_wrong_arguments_delete_nothing(
    arguments: tuple[str, ...], made: list[Path], db: Db
) -> None:
    """They are wrong usage."""
    assert db("backups", *arguments).status == 2
    assert _left(db.path) == made


def test_it_waits_for_a_restore(made: list[Path], db: Db) -> None:
    """The holder of the lock may read a backup; one that was deleted meanwhile is no error."""
    agreed = old_backups(db.path, keep=3)
    with guard(db.path, 5):
        error = refused(lambda: delete_backups(db.path, agreed, keep=3, lock_timeout=0.1))
    assert (error.code, _left(db.path)) == ("lock-timeout", made)
    assert delete_backups(db.path, agreed, keep=3) == made[1:5]
    assert delete_backups(db.path, agreed, keep=3) == []


def test_a_backup_that_is_deleted_before_its_restore_is_named(made: list[Path], db: Db) -> None:
    """Between the question and the answer another process deletes it: nothing is restored."""
    preview = preview_restore(db.path, made[1])
    delete_backups(db.path, old_backups(db.path, keep=3), keep=3)
    before = db.path.read_bytes()
    refused(lambda: restore(preview), "bad-backup", str(made[1]))
    assert db.path.read_bytes() == before
    assert preview.backup.revision == HEAD


def test_only_what_was_agreed_to_is_deleted(made: list[Path], db: Db) -> None:
    """A backup that became old after the question stays."""
    agreed = old_backups(db.path, keep=4)
    assert [one.path for one in agreed] == made[1:4]
    added = back_up(db.path)
    assert delete_backups(db.path, agreed, keep=4) == made[1:4]
    assert _left(db.path) == [made[0], *made[4:], added]


def test_what_a_restore_replaced_proves_nothing_for_a_backup(made: list[Path], db: Db) -> None:
    """`restore --newest` does not take it, so the newest real backup stays beside it."""
    restore(preview_restore(db.path, made[-1]), lock_timeout=10)
    assert db("backups", "--keep", "1", "--yes").status == 0
    left = _left(db.path)
    assert made[-1] in left
    assert left[-1].name.endswith("-replaced")
