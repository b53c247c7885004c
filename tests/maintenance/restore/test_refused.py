"""A restore of a bad backup, or over a wrong file, is refused and changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance import replace
from nextcloud_mcp_server.maintenance import restore as restoring
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from tests.cli.places import REFUSED, Shelf, execute
from tests.maintenance.restore.harm import BAD_BACKUP, Harm, flip
from tests.maintenance.restore.restoring import same
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.contents import KEY, OTHER_KEY, REFRESH_TOKENS
from tests.support.errors import refused
from tests.support.files import names
from tests.support.snapshot import snapshot


@pytest.mark.parametrize("harm", BAD_BACKUP.values(), ids=BAD_BACKUP)
def test_what_is_no_good_backup_is_refused(harm: Harm, path: Path, saved: Path) -> None:
    """Damaged, changed, cut off or gone: one error, and nothing of the database changes."""
    harm(saved)
    with invariants.unchanged(path):
        refused(lambda: preview_restore(path, saved), "bad-backup", str(saved))


def test_the_remedy_lists_the_backups_only_if_there_are_others(path: Path) -> None:
    """A mistyped name is answered with the list; without another backup there is none."""
    typo = path.with_name("not-there.db")
    none = f"Give the path of another backup; there is none beside {path}."
    assert refused(lambda: preview_restore(path, typo)).remedy == none
    prepare(path)
    made = back_up(path)
    remedy = refused(lambda: preview_restore(path, typo)).remedy
    assert remedy.endswith(f": nextcloud-mcp-server db backups --verify -d {path}")
    made.write_bytes(b"")
    assert refused(lambda: preview_restore(path, made)).remedy == none


@pytest.mark.parametrize("state", REFUSED)
def test_what_a_start_would_refuse_is_not_restored(
    state: str, path: Path, saved: Path, shelf: Shelf
) -> None:
    """A backup of another application, a newer program, or a damaged one is no backup."""
    bad = shelf.put(state, saved.with_name("bad.db"))
    before = invariants.disk(bad)
    assert refused(lambda: preview_restore(path, bad)).code == "bad-backup"
    assert invariants.disk(bad) == before


def test_another_application_is_not_replaced(path: Path, saved: Path) -> None:
    """With -d on the wrong file, its owner would miss it."""
    path.unlink()
    execute(path, "CREATE TABLE songs (title TEXT)")
    before = path.read_bytes()
    assert refused(lambda: preview_restore(path, saved)).code == "foreign"
    assert path.read_bytes() == before


def test_a_database_is_not_restored_onto_itself(path: Path, saved: Path, tmp_path: Path) -> None:
    """Neither by another name of it, nor over a backup."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    made = back_up(path)
    for database, backup in ((path, path), (path, link), (link, path), (made, saved)):
        assert refused(lambda d=database, b=backup: preview_restore(d, b)).code == "bad-input"  # type: ignore[misc]


def test_secrets_are_tried_with_the_available_keys(path: Path, saved: Path) -> None:
    """If no key opens a secret, it is refused; else the preview counts the secrets that open."""
    assert preview_restore(path, saved).backup.opened is None
    whole = preview_restore(path, saved, Keyring([KEY])).backup
    assert whole.opened == whole.secrets > len(REFRESH_TOKENS)
    assert refused(lambda: preview_restore(path, saved, Keyring([OTHER_KEY]))).code == "wrong-key"
    manifest_path(saved).unlink()
    execute(saved, "UPDATE refresh_tokens SET encrypted_token = 'gAAAA' WHERE user_id = 'alice'")
    some = preview_restore(path, saved, Keyring([KEY])).backup
    assert some.opened == some.secrets - 1


def test_a_backup_that_changes_after_it_was_confirmed_is_refused(path: Path, saved: Path) -> None:
    """What is restored is what was verified and shown."""
    offer = preview_restore(path, saved)
    before = snapshot(path)
    flip(saved)
    assert refused(lambda: restore(offer, lock_timeout=10)).code == "bad-backup"
    same(snapshot(path), before)


def test_space_is_checked_first(path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If copy, kept copy and WAL do not fit, nothing is written."""
    before = names(path.parent)
    offer = preview_restore(path, saved)
    with monkeypatch.context() as patch:
        patch.setattr("nextcloud_mcp_server.filesystem.space.free_bytes", lambda _: 300_000)
        assert refused(lambda: restore(offer, lock_timeout=10)).code == "disk-full"
    assert names(path.parent) == before


def test_a_program_that_keeps_a_lock_is_an_error(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that stays open ends the wait, and the database is as it was."""
    before = snapshot(path)
    offer = preview_restore(path, saved)
    with monkeypatch.context() as patch:
        patch.setattr(backups, "_DEADLINE", 0.2)
        patch.setattr(replace, "BUSY_TIMEOUT", 0.1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert refused(lambda: restore(offer, lock_timeout=10)).code == "lock-timeout"
            other.execute("ROLLBACK")
    same(snapshot(path), before)


def test_a_result_that_does_not_read_back_is_reported(
    path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exchange that copies nothing is noticed."""
    execute(path, "DELETE FROM refresh_tokens")
    offer = preview_restore(path, saved)
    with monkeypatch.context() as patch:
        patch.setattr(restoring.replace, "copy_into", lambda *_: None)  # type: ignore[attr-defined]
        error = refused(lambda: restore(offer, lock_timeout=10))
    assert (error.code, "-replaced" in error.message) == ("io-error", True)
