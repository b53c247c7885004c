"""The place of a database, and its repair."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.repair import Repaired, repair
from nextcloud_mcp_server.settings import Settings
from tests.support.contents import KEY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a database in a private folder of its own."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder / "tokens.db"


def run_repair(path: Path) -> Repaired:
    """Repair with the key of the tests."""
    return repair(Settings(path, (KEY,)))
