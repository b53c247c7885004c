"""The place of a database, and its repair."""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.maintenance.repair import Repaired, repair
from nextcloud_mcp_server.settings import Settings
from tests.support.contents import KEY


def run_repair(path: Path) -> Repaired:
    """Repair with the key of the tests."""
    return repair(Settings(path, (KEY,)))
