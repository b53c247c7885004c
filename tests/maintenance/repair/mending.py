"""A repair, and a name that was hit by a flipped bit."""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.maintenance.repair import Repaired, repair
from nextcloud_mcp_server.settings import Settings
from tests.support.contents import KEY

RENAME = "ALTER TABLE refresh_tokens RENAME COLUMN provisioning_client_id TO qrovisioning_client_id"


def mend(path: Path) -> Repaired:
    """Repair with the key of the tests."""
    return repair(Settings(path, (KEY,)))
