"""Old entries of the audit log are deleted if AUDIT_RETENTION_DAYS says after how many days."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.audit import TOGETHER
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.settings import load_settings
from tests.auth.helpers import NOW, Clock
from tests.cli.places import execute
from tests.support.contents import KEY
from tests.support.errors import refused

DAY = 86_400


def fill(path: Path, *ages: float) -> None:
    """Add an entry for each age in days, the first one first."""
    old = ", ".join(f"({NOW - int(age * DAY)}, 'old', 'bob')" for age in ages)
    execute(path, f"INSERT INTO audit_logs (timestamp, event, user_id) VALUES {old}")


async def old_entries(storage: RefreshTokenStorage) -> int:
    """Count the entries of :func:`fill` that are left."""
    return len(await storage.audit.list("bob", limit=10_000))


def opened(path: Path, days: str | None, clock: Clock) -> RefreshTokenStorage:
    """Return a store with this setting, not open yet."""
    environ = {} if days is None else {"AUDIT_RETENTION_DAYS": days}
    settings = load_settings(environ, database=path)
    return RefreshTokenStorage(path, encryption_key=KEY, settings=settings, clock=clock)


@pytest.mark.parametrize("days", [None, ""])
async def test_entries_are_kept_by_default(days: str | None, path: Path, clock: Clock) -> None:
    """Without the setting, no entry is ever deleted."""
    fill(path, *[4000] * 3)
    async with opened(path, days, clock) as storage:
        await storage.store_refresh_token("alice", "token")
        assert await old_entries(storage) == 3


async def test_old_entries_are_deleted_a_few_at_a_time(path: Path, clock: Clock) -> None:
    """Each new entry deletes a few of the oldest, so that no writer waits for many."""
    fill(path, *[31] * (2 * TOGETHER + 3), 30, 29.5)
    async with opened(path, "30", clock) as storage:
        left = []
        for number in range(4):
            if number % 2:
                await storage.audit.add("login", "alice")
            else:
                await storage.store_refresh_token("alice", "token")
            left.append(await old_entries(storage))
        # An entry that is exactly as old as the setting says is kept.
        assert left == [TOGETHER + 5, 5, 2, 2]
        assert len(await storage.audit.list("alice")) == 4


async def test_a_newer_entry_before_old_ones_hides_none(path: Path, clock: Clock) -> None:
    """The time decides, not the id: the clock of another host may have been ahead."""
    fill(path, *[-1] * TOGETHER, *[31] * 3)
    async with opened(path, "30", clock) as storage:
        await storage.store_refresh_token("alice", "token")
        assert await old_entries(storage) == TOGETHER


@pytest.mark.parametrize("days", ["0", "-1", "1.5", "a month", "36501", "²", "9" * 5000])
def test_an_invalid_number_of_days_is_refused(days: str) -> None:
    """A number that is not one of days deletes nothing: the start is refused."""
    error = refused(
        lambda: load_settings({"AUDIT_RETENTION_DAYS": days}, database="/data/t.db"), "bad-input"
    )
    assert "AUDIT_RETENTION_DAYS" in str(error)
    assert len(error.message) < 200
