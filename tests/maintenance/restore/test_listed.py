"""The list of backups beside a database, and which of them are good."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backup_check import check_backup
from nextcloud_mcp_server.maintenance.backups import list_backups
from tests.maintenance.restore.harm import bad_pages, cut_off, flip
from tests.support.contents import REFRESH_TOKENS
from tests.support.errors import refused
from tests.support.revisions import HEAD


def unsigned(saved: Path) -> None:
    """Remove the manifest."""
    manifest_path(saved).unlink()


def test_a_list_of_backups_shows_which_are_good(path: Path, saved: Path) -> None:
    """By manifest and size at once; page by page, row by row and byte by byte on demand."""
    assert saved.exists()
    names_of = {}
    for number, harm in enumerate((None, unsigned, flip, cut_off, bad_pages)):
        made = back_up(path)
        names_of[made.name] = number
        if harm is not None:
            harm(made)
    path.with_name("tokens.db.backup-20269999T999999.999999Z-010").write_bytes(b"")
    path.with_name("tokens.db.backup").write_bytes(b"")
    cheap = {names_of[b.path.name]: b.status for b in list_backups(path)}
    assert cheap == {0: "ok", 1: "no manifest", 2: "ok", 3: "no manifest", 4: "no manifest"}
    whole = {names_of[b.path.name]: b.status for b in list_backups(path, verify=True)}
    assert whole == {0: "ok", 1: "no manifest", 2: "changed", 3: "damaged", 4: "damaged"}
    assert [names_of[b.path.name] for b in list_backups(path)] == [4, 3, 2, 1, 0]


def test_a_list_needs_no_database(path: Path, saved: Path) -> None:
    """When the database is gone, the list of its backups is what one needs."""
    assert saved.exists()
    made = back_up(path)
    path.unlink()
    [found] = list_backups(path)
    assert (found.path, found.grants, found.revision) == (made, len(REFRESH_TOKENS), HEAD)
    # The time in the name and the time in the manifest are taken one after the other.
    assert abs(found.made_at - check_backup(made, path).made_at) < timedelta(minutes=1)
    assert refused(lambda: list_backups(path.parent / "nowhere" / "tokens.db")).code == "bad-path"
