"""Which automatic backups are kept: the newest, and the last intact one before each change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import backup_files
from nextcloud_mcp_server.backends.sqlite.backup_files import KEEP, automatic_backups, prune
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path, read_manifest
from nextcloud_mcp_server.migrate.change import Change, downgrade, stamp
from nextcloud_mcp_server.migrate.startup import prepare
from tests.maintenance.restore.harm import bad_pages, cut_off, flip
from tests.support.revisions import HEAD
from tests.support.shapes import at


def _stamp(path: Path, revision: str) -> Change:
    return stamp(connect(path), revision)


def _stamps(path: Path, number: int) -> None:
    """Stamp a database at head back and forth."""
    for turn in range(number):
        assert _stamp(path, HEAD if turn % 2 else "base").backup


def test_stamps_push_out_no_backup_of_an_upgrade(path: Path) -> None:
    """Twelve stamps leave the backup from before the upgrade, and the newest five."""
    at("010", "portable").write(path)
    before = prepare(connect(path)).backup
    assert before is not None
    _stamps(path, 12)
    left = automatic_backups(path)
    assert (left[0], len(left)) == (before, KEEP + 1)


def test_what_a_downgrade_has_dropped_is_kept(path: Path) -> None:
    """The backup before it is of a revision that later backups have too, and stays."""
    at("010", "portable").write(path)
    prepare(connect(path))
    dropped = downgrade(connect(path), "010").backup
    assert dropped is not None
    prepare(connect(path))
    _stamps(path, 12)
    assert dropped in automatic_backups(path)
    manifest = read_manifest(dropped)
    assert manifest is not None
    assert manifest.action == "downgrade"


def test_a_stamp_of_the_same_revision_makes_no_backup(path: Path) -> None:
    """The version row does not change, so there is nothing to go back to."""
    at("010", "portable").write(path)
    prepare(connect(path))
    before = automatic_backups(path)
    assert _stamp(path, HEAD).backup is None
    assert automatic_backups(path) == before
    assert _stamp(path, "base").backup is not None


def _made(path: Path, revision: str, action: str) -> Path:
    target = backup_files.backup_path(path, revision)
    return backups.make_backup(path, target, action=action)


@pytest.mark.parametrize("harm", [flip, cut_off, bad_pages, lambda made: os.truncate(made, 0)])
def test_the_last_intact_one_is_kept(harm: Callable[[Path], object], path: Path) -> None:
    """Damaged newer ones do not take its place; once there is an intact newer one, it goes."""
    at("006").write(path)
    good, *bad = [_made(path, "006", "upgrade") for _ in range(KEEP + 3)]
    for made in bad:
        harm(made)
    prune(path)
    assert automatic_backups(path) == [good, *bad[-KEEP:]]
    newest = _made(path, "006", "upgrade")
    prune(path)
    assert automatic_backups(path) == [*bad[1 - KEEP :], newest]


def test_one_without_a_manifest_is_judged_by_its_pages(path: Path) -> None:
    """A kill before the manifest leaves a whole backup, and it can be the last one."""
    at("006").write(path)
    good, *bad = [_made(path, "006", "upgrade") for _ in range(KEEP + 2)]
    for made in (good, *bad):
        manifest_path(made).unlink()
    for made in bad:
        bad_pages(made)
    prune(path)
    assert automatic_backups(path) == [good, *bad[-KEEP:]]


def test_a_link_to_the_database_is_no_backup(path: Path) -> None:
    """Nothing opens a second name of the database: closing it would drop SQLite's locks."""
    at("006").write(path)
    path.with_name("tokens.db.backup-20991231T235959.000000Z-006").hardlink_to(path)
    path.with_name("tokens.db.backup-20981231T235959.000000Z-006").symlink_to(path)
    assert automatic_backups(path) == []
    made = _made(path, "006", "upgrade")
    prune(path, keep=0)
    assert automatic_backups(path) == [made]
