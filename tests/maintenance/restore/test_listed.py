"""The list of backups beside a database, and which of them are good."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backup_check import check_backup
from nextcloud_mcp_server.maintenance.backups import list_backups
from nextcloud_mcp_server.schema.secrets import SECRETS
from tests.maintenance.restore.harm import bad_pages, cut_off, flip
from tests.support.contents import KEY, REFRESH_TOKENS
from tests.support.errors import refused
from tests.support.revisions import HEAD
from tests.support.secret_rows import store_each_secret


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


async def test_a_secret_counts_as_opened_for_its_own_row_only(tmp_path: Path) -> None:
    """A text of the right key in another row is not opened; every column is counted."""
    path = tmp_path / "sealed.db"
    async with RefreshTokenStorage(path, encryption_key=KEY) as store:
        await store_each_secret(store)
    number, ring = len(SECRETS) + 1, Keyring(KEY)
    found = check_backup(back_up(path), path, ring)
    assert (found.secrets, found.opened) == (number, number)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE refresh_tokens SET encrypted_token = (SELECT encrypted_token FROM "
            "refresh_tokens WHERE user_id = 'bob')"
        )
        connection.commit()
    found = check_backup(back_up(path), path, ring)
    assert (found.secrets, found.opened) == (number, number - 1)
