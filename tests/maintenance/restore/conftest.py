"""A database, and a backup to restore."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import backup_files
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.migrations import upgrade_database
from tests.support.shapes import at


@pytest.fixture
def saved(path: Path, tmp_path: Path) -> Path:
    """Return a backup of a database at head with rows; the database is at `path`."""
    at("010", "portable").write(path)
    upgrade_database(path)
    for made in backup_files.automatic_backups(path):
        backup_files.discard(made)
    return back_up(path, tmp_path / "saved.db")
