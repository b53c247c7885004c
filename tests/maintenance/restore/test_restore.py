"""A restore is verified first, keeps what it replaces, and brings back what was saved."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import backup_files
from nextcloud_mcp_server.maintenance.backups import list_backups
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.places import execute
from tests.maintenance.restore.harm import garbage
from tests.maintenance.restore.restoring import restored, same
from tests.support import invariants
from tests.support.by_path import read_journal
from tests.support.contents import KEY, REFRESH_TOKENS
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.shapes import at
from tests.support.snapshot import snapshot


def test_a_restore_brings_back_what_was_saved_and_keeps_what_it_replaces(
    path: Path, saved: Path
) -> None:
    """Rows, revision and mode are as they were; what was there is a verified backup of its own."""
    execute(path, "DELETE FROM refresh_tokens")
    path.chmod(0o640)
    before = snapshot(path)
    done = restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert len(snapshot(path).rows["refresh_tokens"]) == len(REFRESH_TOKENS)
    assert path.stat().st_mode & 0o777 == 0o640
    assert done.kept is not None
    assert done.kept.name.endswith(f"-{HEAD}-replaced")
    same(snapshot(done.kept), before)
    [kept] = list_backups(path, verify=True)
    assert (kept.path, kept.kind, kept.status, kept.grants) == (done.kept, "replaced", "ok", 0)
    assert backup_files.automatic_backups(path) == []
    assert invariants.companions(path) == set()
    assert not {name for name in names(path.parent) if name.endswith(".partial")}


def test_the_backup_stays_as_it_is(path: Path, saved: Path) -> None:
    """A restore does not change the backup: bytes, mode, time, and the files beside it."""
    before, beside = invariants.disk(saved), names(saved.parent)
    restored(path, saved)
    assert (invariants.disk(saved), names(saved.parent)) == (before, beside)


def test_a_copy_in_wal_mode_stays_as_it_is(path: Path, saved: Path, tmp_path: Path) -> None:
    """A `cp` of a stopped database is restored as well, and nothing appears beside it."""
    copy = tmp_path / "copied" / "tokens.db.backup"
    copy.parent.mkdir()
    shutil.copy(path, copy)
    offer = preview_restore(path, copy)
    assert offer.backup.manifest is None
    restore(offer, lock_timeout=10)
    same(snapshot(path), snapshot(saved))
    assert names(copy.parent) == {"tokens.db.backup"}


def test_a_restore_is_in_the_journal(path: Path, saved: Path) -> None:
    """The journal has the restore, its backup, and the path of the replaced database."""
    done = restored(path, saved)
    entries = read_journal(path, 1)
    assert entries
    [entry] = entries
    assert (entry.action, entry.before, entry.after) == ("restore", HEAD, HEAD)
    assert (entry.backup, entry.note) == (done.kept and done.kept.name, "from saved.db")
    restored(path, done.kept or path)
    assert snapshot(path).rows["refresh_tokens"]


def test_an_older_backup_is_restored_as_it_is(path: Path, saved: Path, tmp_path: Path) -> None:
    """Nothing is migrated: the preview announces that the next start does that."""
    old = tmp_path / "old.db"
    at("006").write(old)
    offer = preview_restore(path, old)
    assert (offer.is_behind, preview_restore(path, saved).is_behind) == (True, False)
    restore(offer, lock_timeout=10)
    assert snapshot(path).versions == ["006"]
    assert upgrade_database(path).after == HEAD
    invariants.complete_at_head(snapshot(path))


def test_a_folder_that_is_not_there_is_made(saved: Path, tmp_path: Path) -> None:
    """A restore on a new machine needs no start before."""
    path = tmp_path / "new" / "place" / "tokens.db"
    restored(path, saved)
    same(snapshot(path), snapshot(saved))
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_link_is_followed(path: Path, saved: Path, tmp_path: Path) -> None:
    """The file behind the link is restored, and the link stays one."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    execute(path, "DELETE FROM refresh_tokens")
    done = restored(link, saved)
    assert link.is_symlink()
    assert done.kept is not None
    assert done.kept.parent == path.parent
    same(snapshot(path), snapshot(saved))


@pytest.mark.parametrize(("size", "mode"), [(1024, "WAL"), (16384, "WAL"), (1024, "DELETE")])
def test_pages_may_have_another_size(
    size: int, mode: str, path: Path, saved: Path, tmp_path: Path
) -> None:
    """In WAL mode SQLite copies no pages of another size: they are made to fit first."""
    path.unlink()
    at("006").write(path, [f"page_size={size}", f"journal_mode={mode}"])
    with closing(sqlite3.connect(path)) as open_elsewhere:
        open_elsewhere.execute("SELECT count(*) FROM refresh_tokens").fetchall()
        restored(path, saved)
        rows = open_elsewhere.execute("SELECT count(*) FROM migration_journal").fetchall()
    assert rows[0][0] >= 2
    same(snapshot(path), snapshot(saved))


async def test_the_store_opens_what_was_restored(path: Path, saved: Path) -> None:
    """Every secret of the backup is read through the store."""
    garbage(path)
    wanted = invariants.secrets_in(snapshot(saved), KEY)
    restored(path, saved)
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        assert await invariants.read_through_the_store(storage, wanted) == wanted
