"""Expired rows are deleted in pages, so that others can write in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import false

from nextcloud_mcp_server.auth import browser_sessions
from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.auth.statements import AT_ONCE
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.base import Connection
from tests.auth.helpers import NOW, tamper
from tests.cli.places import execute, rows

T = TypeVar("T")

#: More than two pages, and no multiple of a page.
MANY = 2 * AT_ONCE + 7

FILL = {
    "refresh_tokens": (
        "INSERT INTO refresh_tokens (user_id, encrypted_token, expires_at, created_at, updated_at) "
        "SELECT printf('user-%06d', i), x'00', {expires}, 1, 1 FROM n"
    ),
    "login_flow_sessions": (
        "INSERT INTO login_flow_sessions "
        "(user_id, encrypted_poll_token, poll_endpoint, created_at, expires_at) "
        "SELECT printf('user-%06d', i), x'00', 'e', 1, {expires} FROM n"
    ),
    "oauth_sessions": (
        "INSERT INTO oauth_sessions (session_id, client_redirect_uri, created_at, expires_at) "
        "SELECT printf('session-%06d', i), 'r', 1, {expires} FROM n"
    ),
    "browser_sessions": (
        "INSERT INTO browser_sessions (session_id, user_id, created_at, expires_at) "
        "SELECT printf('session-%06d', i), 'alice', 1, {expires} FROM n"
    ),
}


def fill(path: Path, table: str) -> None:
    """Add :data:`MANY` rows, of which every tenth is not expired."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY}) "
    expires = f"CASE WHEN i % 10 = 0 THEN {NOW + 1} ELSE {NOW} END"
    statement = FILL[table].format(expires=expires)
    at = statement.index("SELECT")
    execute(path, f"{statement[:at]}{numbers}{statement[at:]}")


async def delete(storage: RefreshTokenStorage, table: str) -> int:
    """Delete the expired rows of ``table``."""
    return await {
        "refresh_tokens": storage.delete_expired_refresh_tokens,
        "login_flow_sessions": storage.login_flows.delete_expired,
        "oauth_sessions": storage.oauth_sessions.delete_expired,
        "browser_sessions": storage.browser_sessions.delete_expired,
    }[table]()


def left(path: Path, table: str) -> tuple[int, int, int]:
    """Count the rows, those that are expired, and the entries in the audit log."""
    counts = f"count(*), coalesce(sum(expires_at <= {NOW}), 0), (SELECT count(*) FROM audit_logs)"
    [row] = rows(path, f"SELECT {counts} FROM {table}")
    return row


@pytest.mark.parametrize("table", FILL)
async def test_every_expired_row_is_deleted(
    table: str, path: Path, storage: RefreshTokenStorage
) -> None:
    """Each has an entry in the audit log; the others stay."""
    fill(path, table)
    kept = MANY // 10
    assert await delete(storage, table) == MANY - kept
    assert left(path, table) == (kept, 0, MANY - kept)
    assert await delete(storage, table) == 0


async def test_a_failure_keeps_the_pages_before_it(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """The pages that were committed are gone, and the next call deletes the rest."""
    fill(path, "browser_sessions")
    tamper(
        path,
        "CREATE TRIGGER t BEFORE DELETE ON browser_sessions "
        f"WHEN old.session_id > 'session-{AT_ONCE + 200:06d}' BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    with pytest.raises(Exception, match="no"):
        await storage.browser_sessions.delete_expired()
    total, expired, entries = left(path, "browser_sessions")
    assert (MANY - total, expired) == (AT_ONCE, MANY - MANY // 10 - AT_ONCE)
    assert entries == AT_ONCE
    tamper(path, "DROP TRIGGER t")
    assert await storage.browser_sessions.delete_expired() == expired


async def test_each_page_is_a_transaction(
    path: Path, storage: RefreshTokenStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others can write between two pages, and each page is one commit."""
    fill(path, "browser_sessions")
    sizes: list[int] = []
    write = Access.write

    async def watched(access: Access, unit: Callable[[Connection], T]) -> T:
        before = left(path, "browser_sessions")[0]
        result = await write(access, unit)
        sizes.append(before - left(path, "browser_sessions")[0])
        return result

    monkeypatch.setattr(Access, "write", watched)
    assert await storage.browser_sessions.delete_expired() == sum(sizes)
    assert len(sizes) > 1
    assert max(sizes) <= AT_ONCE


async def test_rows_that_nothing_can_delete_end_the_loop(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """A damaged index may give rows that no statement finds: they are given up, and not counted."""
    fill(path, "browser_sessions")
    nothing = browser_sessions._DELETE.where(false())
    concern = storage.browser_sessions
    assert await concern._delete_all(browser_sessions._EXPIRED, nothing, "event") == 0
    assert left(path, "browser_sessions") == (MANY, MANY - MANY // 10, 0)


async def test_a_key_without_text_is_deleted_too(path: Path, storage: RefreshTokenStorage) -> None:
    """An expired row of another program, with an empty key, does not stay for ever."""
    tamper(path, "INSERT INTO browser_sessions VALUES ('', 'alice', 1, 2)")
    assert await storage.browser_sessions.delete_expired() == 1
