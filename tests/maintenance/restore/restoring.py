"""A restore, and what is the same afterwards."""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.maintenance.restore import Restored, restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from tests.support.snapshot import Snapshot


def same(one: Snapshot, other: Snapshot) -> None:
    """Check that two files hold the same, except for the journal entry of a restore."""
    rows = [{n: r for n, r in s.rows.items() if n != "migration_journal"} for s in (one, other)]
    assert rows[0] == rows[1]
    assert one.indexes == other.indexes


def restored(path: Path, saved: Path, *, while_running: bool = False) -> Restored:
    """Preview and restore."""
    return restore(preview_restore(path, saved), while_running=while_running, lock_timeout=10)
