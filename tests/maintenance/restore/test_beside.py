"""A ``-wal`` or ``-journal`` beside a backup is never applied to it, unless it is its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.backup_files import find_backups, is_intact
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backups import list_backups, newest_backup
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.settings import Settings
from tests.backends.test_companions import CHANGE, crashed, killed_after
from tests.cli.places import execute
from tests.maintenance.restore.restoring import same
from tests.support import invariants
from tests.support.errors import refused
from tests.support.files import names
from tests.support.snapshot import snapshot

SUFFIXES = {"wal": "-wal", "delete": "-journal"}


def _foreign(backup: Path, folder: Path, mode: str) -> Path:
    """Put what a crashed writer of another database left beside a backup."""
    companion = Path(f"{backup}{SUFFIXES[mode]}")
    (folder / "other").mkdir()
    shutil.copy(crashed(folder / "other" / "tokens.db", mode), companion)
    return companion


@pytest.mark.parametrize("mode", SUFFIXES)
@pytest.mark.parametrize("manifest", [True, False])
def test_a_companion_of_another_file_is_refused(
    mode: str, path: Path, saved: Path, tmp_path: Path, *, manifest: bool
) -> None:
    """A restore would take its rows for those of the backup; after the remedy it works."""
    if not manifest:
        manifest_path(saved).unlink()
        # Its number of changes shows whose a -wal is: another one than of a new database.
        for number in range(3):
            execute(saved, f"CREATE TABLE extra_{number} (x)")
    before = snapshot(saved)
    companion = _foreign(saved, tmp_path, mode)
    with invariants.unchanged(path):
        error = refused(lambda: preview_restore(path, saved))
    assert (error.code, companion.name in error.message) == ("orphaned", True)
    move = error.remedy.rpartition(": ")[2]
    assert shlex.split(move)[:2] == ["mv", str(companion)]
    subprocess.run(shlex.split(move), check=True)
    restore(preview_restore(path, saved), lock_timeout=10)
    same(snapshot(path), before)


def test_its_own_wal_is_refused_beside_a_backup_with_a_manifest(path: Path, saved: Path) -> None:
    """A writer has changed the backup since, and its manifest describes what was before."""
    killed_after(saved, "PRAGMA journal_mode=WAL", CHANGE)
    assert refused(lambda: preview_restore(path, saved)).code == "orphaned"


def test_a_companion_that_comes_after_the_preview_is_refused(
    path: Path, saved: Path, tmp_path: Path
) -> None:
    """What is restored is what was verified, whatever was put beside it since."""
    offer = preview_restore(path, saved)
    _foreign(saved, tmp_path, "wal")
    with invariants.unchanged(path):
        assert refused(lambda: restore(offer, lock_timeout=10)).code == "orphaned"


def test_a_copy_with_its_own_wal_is_restored(path: Path, tmp_path: Path) -> None:
    """A `cp` of a crashed database and its -wal has the rows of both."""
    copy = tmp_path / "copied.db"
    crashed(copy, "wal")
    restore(preview_restore(path, copy), lock_timeout=10)
    assert "grown" in snapshot(path).rows


@pytest.mark.parametrize("mode", SUFFIXES)
def test_a_backup_is_not_made_beside_a_companion(
    mode: str, path: Path, saved: Path, tmp_path: Path
) -> None:
    """SQLite would apply it to the new backup, so no file is made, and the remedy says which."""
    target = tmp_path / "made" / "backup.db"
    target.parent.mkdir()
    companion = _foreign(target, tmp_path, mode)
    assert saved.exists()
    error = refused(lambda: back_up(path, target))
    assert (error.code, str(companion) in error.remedy) == ("orphaned", True)
    assert names(target.parent) == {companion.name}
    companion.unlink()
    assert back_up(path, target) == target


def test_such_a_backup_is_not_intact(path: Path, saved: Path, tmp_path: Path) -> None:
    """It is listed as damaged, skipped as the newest, and reported by the doctor, with why."""
    assert saved.exists()
    older, newer = back_up(path), back_up(path)
    companion = _foreign(newer, tmp_path, "wal")
    listed = list_backups(path, verify=True)[0]
    assert (listed.path, listed.status) == (newer, "damaged")
    assert companion.name in listed.reason
    found = newest_backup(path)
    assert found.backup.path == older
    [(skipped, reason)] = found.skipped
    assert (skipped, companion.name in reason) == (newer, True)
    assert [is_intact(one) for one in find_backups(path)] == [True, False]
    findings = diagnose(Settings(path)).findings
    assert any(f.check == "backups" and companion.name in f.message for f in findings)


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "folder"])
def test_what_is_no_file_beside_the_database_is_moved_away(
    kind: str, suffix: str, path: Path, saved: Path, tmp_path: Path
) -> None:
    """A restore beside a link, a pipe or a folder works, and keeps that under another name."""
    before = snapshot(saved)
    companion = Path(f"{path}{suffix}")
    companion.unlink(missing_ok=True)
    target = tmp_path / "target"
    if kind == "link":
        target.write_bytes(b"somebody's text")
    if kind == "pipe":
        os.mkfifo(companion)
    elif kind == "folder":
        companion.mkdir()
    else:
        companion.symlink_to(target)
    done = restore(preview_restore(path, saved), lock_timeout=10)
    same(snapshot(path), before)
    assert done.kept is not None
    aside = Path(f"{done.kept}{suffix}")
    assert (aside.is_symlink(), aside.is_fifo(), aside.is_dir()) == (
        kind in {"link", "dangling"},
        kind == "pipe",
        kind == "folder",
    )
    assert not companion.is_symlink()
    assert target.exists() == (kind == "link")
