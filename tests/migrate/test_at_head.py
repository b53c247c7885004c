"""A command opens a database at head beside a server, and migrates nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite.in_use import in_use
from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.migrate.at_head import open_at_head
from tests.cli.places import crash, execute, listing
from tests.support.contents import KEY
from tests.support.errors import refuses
from tests.support.shapes import at

if TYPE_CHECKING:
    import pytest


async def test_it_counts_as_in_use_until_it_is_closed(token_db: Path) -> None:
    """No restore can replace the database meanwhile."""
    pool = open_at_head(connect(token_db))
    assert in_use(token_db)
    await pool.close()
    assert not in_use(token_db)


async def test_a_server_can_have_it_open(token_db: Path) -> None:
    """Neither waits for the other."""
    async with RefreshTokenStorage(token_db, encryption_key=KEY) as storage:
        pool = open_at_head(connect(token_db), lock_timeout=0.1)
        await storage.store_refresh_token("alice", "secret")
        await pool.close()
        assert await storage.list_user_ids() == ["alice"]


def test_a_pending_upgrade_is_refused(token_db: Path) -> None:
    """The error names the command; a start would migrate under the server of another release."""
    execute(token_db, "UPDATE alembic_version SET version_num = '010'")
    with refuses("upgrade-pending") as caught:
        open_at_head(connect(token_db))
    assert f"db upgrade -d {token_db}" in caught.value.remedy


def test_what_a_start_refuses_is_refused(token_db: Path, tmp_path: Path) -> None:
    """The error is that of a start, and a missing database is not created."""
    execute(token_db, "UPDATE alembic_version SET version_num = '999'")
    with refuses("unknown-revision"):
        open_at_head(connect(token_db))
    with refuses("bad-path"):
        open_at_head(connect(tmp_path / "missing.db"))


def test_a_refused_database_gets_no_file_beside_it(tmp_path: Path) -> None:
    """Not even a lock file, beside another program's database or one of an old release."""
    for name, statement in (("songs.db", "CREATE TABLE songs (title TEXT)"), ("old.db", "")):
        path = tmp_path / name
        if statement:
            execute(path, statement)
        else:
            at("009").write(path)
        with refuses("foreign" if statement else "upgrade-pending"):
            open_at_head(connect(path))
    assert listing(tmp_path) == ["old.db", "songs.db"]


def test_a_read_only_database_is_refused(token_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is opened here is written."""
    monkeypatch.setattr(permissions, "unwritable", lambda _: "the disk is read-only")
    with refuses("read-only"):
        open_at_head(connect(token_db))
    assert not in_use(token_db)


async def test_the_journal_of_a_crashed_writer_is_rolled_back(
    token_db: Path, tmp_path: Path
) -> None:
    """Only the exclusive lock allows that, so it is taken then."""
    live, left = tmp_path / "live.db", tmp_path / "left.db"
    shutil.copyfile(token_db, live)
    crash(live, left)
    pool = open_at_head(connect(left))
    await pool.close()
    async with RefreshTokenStorage(left, encryption_key=KEY) as storage:
        assert await storage.list_user_ids() == []
