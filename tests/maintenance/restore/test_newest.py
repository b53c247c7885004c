"""The newest intact backup: the backups are read from the newest on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import backup_files
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backups import Newest, Skipped, list_backups, newest_backup
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.maintenance.restore.harm import bad_pages, flip, garbage
from tests.maintenance.restore.restoring import restored, same
from tests.support import invariants
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import attempt, refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.snapshot import snapshot


@pytest.fixture
def three(path: Path, saved: Path) -> list[Path]:
    """Three backups beside the database, newest first."""
    assert saved.exists()
    return [back_up(path) for _ in range(3)][::-1]


def in_turn(three: list[Path]) -> Iterator[tuple[bool, ...]]:
    """Which of the three are good, in each of the eight ways, made so."""
    now: tuple[bool, ...] = (True, True, True)
    for wanted in product([True, False], repeat=3):
        for backup, was, becomes in zip(three, now, wanted, strict=True):
            if was is not becomes:
                # What is flipped twice is as it was.
                flip(backup)
        now = wanted
        yield wanted


class Phases(list[str]):
    """The reported phases."""

    def __call__(self, phase: str, done: int = 0, total: int = 0, unit: str = "") -> None:
        """Keep one."""
        self.append(phase)


def test_the_first_good_one_ends_the_reading(path: Path, three: list[Path]) -> None:
    """Whichever are bad, those passed over are the newer ones, and nothing older is read."""
    for good in in_turn(three):
        phases = Phases()
        found = attempt(partial(newest_backup, path, None, phases))
        first = good.index(True) if any(good) else 3
        assert phases == [f"verifying {backup.name}" for backup in three[: first + 1]]
        if first == 3:
            assert isinstance(found, TokenStorageError)
            assert found.code == "bad-backup"
            continue
        assert isinstance(found, Newest)
        assert found.backup.path == three[first]
        assert [passed.path for passed in found.skipped] == three[:first]
        assert all("has been changed since it was made" in p.reason for p in found.skipped)


def test_what_was_found_is_restored_without_reading_it_again(path: Path, saved: Path) -> None:
    """A damaged database gets the rows of it back; the newer one is passed over by its damage."""
    assert saved.exists()
    before = snapshot(path)
    good = backups.make_backup(path, backup_files.backup_path(path, HEAD))
    newer = back_up(path)
    bad_pages(newer)
    garbage(path)
    found = newest_backup(path)
    assert found.backup.path == good
    [passed] = found.skipped
    assert passed == Skipped(newer, passed.reason)
    assert passed.reason.startswith(f"{newer} cannot be restored: ")
    phases = Phases()
    offer = preview_restore(path, found.backup, report=phases)
    assert (offer.backup, phases) == (found.backup, ["counting its rows"])
    done = restore(offer, lock_timeout=10)
    same(snapshot(path), before)
    assert done.kept is not None


def test_what_a_restore_replaced_is_no_candidate(path: Path, saved: Path) -> None:
    """The database that a restore replaced is skipped with a reason, although it is newer."""
    made = back_up(path)
    execute(path, "DELETE FROM refresh_tokens")
    done = restored(path, saved)
    assert done.kept is not None
    assert done.kept.name > made.name
    found = newest_backup(path)
    reason = f"{done.kept} is what a restore replaced. To restore it, give its path."
    assert (found.backup.path, found.skipped) == (made, ((done.kept, reason),))
    made.unlink()
    assert refused(lambda: newest_backup(path)).message == (
        f"No backup beside {path} can be restored (1 read). The newest: {reason}"
    )
    done.kept.unlink()
    assert refused(lambda: newest_backup(path)).message == (
        f"There is no backup beside {path} to restore."
    )


def test_none_that_is_intact_is_one_error(path: Path, three: list[Path]) -> None:
    """It has the number of backups and the problem of the newest; nothing is changed."""
    for backup in three:
        flip(backup)
    before, beside = invariants.disk(path), names(path.parent)
    error = refused(lambda: newest_backup(path), "bad-backup")
    assert error.message == (
        f"No backup beside {path} can be restored (3 read). The newest: {three[0]} has been "
        "changed since it was made: its SHA-256 is not the one in its manifest."
    )
    assert f"nextcloud-mcp-server db backups --verify -d {path} " in error.remedy
    assert (invariants.disk(path), names(path.parent)) == (before, beside)


def test_a_missing_key_takes_no_older_one(path: Path, three: list[Path]) -> None:
    """What the given keys do not open is not damaged: the key is asked for."""
    flip(three[0])
    refused(lambda: newest_backup(path, Keyring([OTHER_KEY])), "wrong-key", str(three[1]))
    found = newest_backup(path, Keyring([KEY])).backup
    assert (found.path, found.opened) == (three[1], found.secrets)


def test_a_missing_key_is_listed(path: Path, three: list[Path]) -> None:
    """A complete reading tries the keys; without one it reads the rest."""
    assert {one.status for one in list_backups(path, verify=True)} == {"ok"}
    found = list_backups(path, verify=True, keyring=Keyring(OTHER_KEY))
    assert [one.path for one in found if one.status == "wrong-key"][:3] == three
    assert "No given key opens a secret in" in found[0].reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("whose", ["backup", "manifest"])
def test_what_another_user_may_have_put_there_is_skipped(
    whose: str, path: Path, three: list[Path]
) -> None:
    """In a folder that others can write, a planted backup would replace everybody's tokens."""
    planted = three[0] if whose == "backup" else manifest_path(three[0])
    os.chown(planted, 12345, 12345)
    found = newest_backup(path)
    assert found.backup.path == three[1]
    [(skipped, reason)] = found.skipped
    assert (skipped, "belongs to user 12345" in reason) == (three[0], True)
    # The list has the same reason, and each has a remedy that this user can carry out.
    assert "TOKEN_STORAGE_TRUSTED_OWNERS=12345" in reason
    [listed] = [one for one in list_backups(path, verify=True) if one.path == three[0]]
    assert (listed.status, listed.reason) == ("untrusted", reason)
    [finding] = [f for f in diagnose(Settings(path, (KEY,))).findings if "not intact" in f.message]
    assert reason in finding.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_another_user_may_have_put_there_displaces_no_backup(
    path: Path, three: list[Path]
) -> None:
    """A planted backup is no proof that an older one is not needed."""
    for planted in three[:2]:
        os.chown(planted, 12345, 12345)
    found = backup_files.find_backups(path)
    assert three[2] not in [one.path for one in backup_files.surplus(found, keep=2)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_root_takes_the_backups_of_the_user_whose_database_is_gone(
    path: Path, three: list[Path]
) -> None:
    """The folder says whose database it was; a third user's backup is skipped even then."""
    for file in (path.parent, *path.parent.iterdir()):
        os.chown(file, 12345, 12345)
    os.chown(three[0], 54321, 54321)
    path.unlink()
    found = newest_backup(path)
    assert (found.backup.path, [one.path for one in found.skipped]) == (three[1], [three[0]])


def test_a_place_that_is_none_is_reported(path: Path) -> None:
    """A folder that is not there holds no backup, and a folder is no database."""
    assert refused(lambda: newest_backup(path.parent / "no" / "tokens.db")).code == "bad-path"
    assert refused(lambda: newest_backup(path.parent)).code == "bad-path"
