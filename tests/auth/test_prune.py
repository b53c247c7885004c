"""Expired login flows and sessions are deleted, beside a running server and without a key."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.prune import count_expired, delete_expired
from nextcloud_mcp_server.auth.statements import AT_ONCE
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.settings import Settings
from tests.auth.helpers import NOW
from tests.auth.test_expired import FILL, MANY, fill, left
from tests.cli.places import execute, rows
from tests.support.errors import refused

TABLES = ("login_flow_sessions", "oauth_sessions", "browser_sessions")

#: Tables that are empty here; ``test_mcp_grants.py`` fills them.
EMPTY = dict.fromkeys(("mcp_tokens", "mcp_grants", "mcp_clients"), 0)


def now() -> float:
    """Return the time at which the rows have expired."""
    return NOW


def test_it_deletes_what_it_counts_and_no_refresh_token(path: Path) -> None:
    """Rows that are not expired stay; each deletion has an entry in the audit log."""
    for table in FILL:
        fill(path, table)
    settings = Settings(path)
    expired = MANY - MANY // 10
    assert count_expired(settings, now) == {**dict.fromkeys(TABLES, expired), **EMPTY}
    assert {left(path, table)[1] for table in FILL} == {expired}
    assert delete_expired(settings, now) == {**dict.fromkeys(TABLES, expired), **EMPTY}
    assert {left(path, table)[:2] for table in TABLES} == {(MANY - expired, 0)}
    assert left(path, "refresh_tokens") == (MANY, expired, expired * len(TABLES))
    assert count_expired(settings, now) == {**dict.fromkeys(TABLES, 0), **EMPTY}


DAY = 86_400
OLD = "INSERT INTO audit_logs (timestamp, event, user_id) VALUES ({}, 'old', 'bob')"


@pytest.mark.parametrize(
    ("age", "days", "kept"),
    [(None, None, 3), (None, 30, 2), (timedelta(days=20), None, 1), (timedelta(days=20), 30, 1)],
    ids=["neither", "the setting", "the argument", "both"],
)
def test_old_audit_entries_are_deleted_if_asked_for(
    age: timedelta | None, days: int | None, kept: int, path: Path
) -> None:
    """The argument overrides the setting; without both, no entry is counted or deleted."""
    execute(path, *(OLD.format(NOW - number * DAY) for number in (20, 30, 31)))
    settings = Settings(path, audit_retention_days=days)
    counted = count_expired(settings, now, audit_age=age)
    assert counted.get("audit_logs") == (3 - kept or None)
    assert delete_expired(settings, now, audit_age=age) == counted
    assert rows(path, "SELECT count(*) FROM audit_logs") == [(kept,)]


def test_a_long_audit_log_is_deleted_in_batches(path: Path) -> None:
    """More than two batches are deleted, oldest first, and nothing is recorded."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) "
    execute(
        path,
        "INSERT INTO audit_logs (timestamp, event, user_id) "
        f"{numbers} SELECT {NOW} - i * 60, 'old', 'bob' FROM n",
    )
    hour = timedelta(hours=1)
    assert delete_expired(Settings(path), now, audit_age=hour)["audit_logs"] == MANY - 60
    assert rows(path, "SELECT count(*), min(timestamp) FROM audit_logs") == [(60, NOW - 3600)]


def test_a_trigger_that_keeps_the_log_is_an_error(path: Path) -> None:
    """Entries that stay are not reported as deleted."""
    execute(
        path,
        OLD.format(1),
        "CREATE TRIGGER keep BEFORE DELETE ON audit_logs BEGIN SELECT RAISE(IGNORE); END",
    )
    error = refused(lambda: delete_expired(Settings(path), now, audit_age=timedelta(0)))
    assert error.code == "ignored"


def test_no_key_is_needed_or_made(path: Path) -> None:
    """The settings of a nightly job need no key."""
    fill_and_prune(path)
    assert not path.with_name(f"{path.name}.key").exists()


def fill_and_prune(path: Path) -> None:
    """Delete the expired browser sessions of a database with some."""
    fill(path, "browser_sessions")
    assert delete_expired(Settings(path), now)["browser_sessions"] > AT_ONCE


async def test_a_server_works_meanwhile(path: Path, storage: RefreshTokenStorage) -> None:
    """A store that is open writes and reads as before."""
    await storage.store_refresh_token("alice", "secret")
    fill_and_prune(path)
    await storage.store_refresh_token("bob", "secret")
    token = await storage.get_refresh_token("alice")
    assert token is not None
    assert token.token == "secret"


async def test_a_prolonged_session_stays(path: Path, storage: RefreshTokenStorage) -> None:
    """A login flow that is stored again while the others are deleted is a new one."""
    await storage.login_flows.store("alice", "poll", "https://nc", expires_at=NOW + 60)
    fill(path, "login_flow_sessions")
    await storage.login_flows.store("user-000001", "poll", "https://nc", expires_at=NOW + 60)
    delete_expired(Settings(path), now)
    assert await storage.login_flows.get("user-000001") is not None


def test_a_key_that_is_a_blob_is_deleted_too(path: Path) -> None:
    """A row that this program did not write stops no other one from being deleted."""
    for table in FILL:
        fill(path, table)
    execute(
        path,
        "UPDATE browser_sessions SET session_id = CAST(session_id AS BLOB), "
        "user_id = CAST(user_id AS BLOB) WHERE rowid % 2",
        "UPDATE oauth_sessions SET session_id = CAST(session_id AS BLOB) WHERE rowid % 3 = 0",
        "UPDATE login_flow_sessions SET user_id = CAST(user_id AS BLOB) WHERE rowid % 3 = 0",
    )
    counted = count_expired(Settings(path), now)
    assert delete_expired(Settings(path), now) == counted
    assert count_expired(Settings(path), now) == {**dict.fromkeys(TABLES, 0), **EMPTY}
