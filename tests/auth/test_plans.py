"""SQLite's plans of the statements that must not read a whole table."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from nextcloud_mcp_server.auth import (
    audit,
    browser_sessions,
    login_flows,
    oauth_sessions,
    prune,
    refresh_tokens,
)

if TYPE_CHECKING:
    from sqlalchemy import Executable

#: Each statement, and the indexes that it searches.
STATEMENTS: Final[dict[str, tuple[Executable, set[str]]]] = {
    "session by state": (oauth_sessions._BY_STATE, {"idx_oauth_sessions_state"}),
    "session by code": (oauth_sessions._BY_CODE, {"sqlite_autoindex_oauth_sessions_2"}),
    "expired tokens": (
        refresh_tokens._EXPIRED,
        {"idx_refresh_tokens_expires", "sqlite_autoindex_refresh_tokens_1"},
    ),
    "expired sessions": (
        oauth_sessions._EXPIRED,
        {"idx_oauth_sessions_expires", "sqlite_autoindex_oauth_sessions_1"},
    ),
    "expired browser sessions": (
        browser_sessions._EXPIRED,
        {"idx_browser_sessions_expires", "sqlite_autoindex_browser_sessions_1"},
    ),
    "expired login flows": (
        login_flows._EXPIRED,
        {"idx_login_flow_sessions_expires", "sqlite_autoindex_login_flow_sessions_1"},
    ),
    "newest entries": (audit._SINCE, {"idx_audit_timestamp"}),
    "entries of a user": (audit._OF_USER, {"idx_audit_user_timestamp"}),
    "a few old entries": (audit._DELETE_FEW, {"idx_audit_timestamp"}),
    "a page of old entries": (audit._DELETE_PAGE, {"idx_audit_timestamp"}),
    "number of old entries": (audit._COUNT_BEFORE, {"idx_audit_timestamp"}),
    **{
        f"number of expired {table}": (statement, {f"idx_{table}_expires"})
        for table, statement in prune._COUNTS.items()
        # These expire by what belongs to them.
        if table not in {"mcp_clients", "mcp_grants"}
    },
}


def plan(path: Path, statement: Executable) -> list[str]:
    """Return the steps of SQLite's plan."""
    sql = str(statement.compile(dialect=SQLiteDialect()))  # type: ignore[attr-defined]
    with closing(sqlite3.connect(path)) as connection:
        values = [1] * sql.count("?")
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_searches_its_index(name: str, path: Path) -> None:
    """Each step that reads a table searches it by an index or by its key."""
    statement, indexes = STATEMENTS[name]
    steps = plan(path, statement)
    reads = [step for step in steps if step.startswith(("SCAN", "SEARCH"))]
    assert reads
    assert not [step for step in reads if step.startswith("SCAN")], steps
    assert {i for i in indexes if any(f" {i} (" in step for step in reads)} == indexes, steps


@pytest.mark.parametrize("name", [name for name in STATEMENTS if name.startswith("expired")])
def test_expired_rows_come_in_the_order_of_their_key(name: str) -> None:
    """Two processes that delete them lock the rows in the same order."""
    statement, _ = STATEMENTS[name]
    text = str(statement)
    assert text.rpartition("ORDER BY ")[2].split(".")[1] in ("user_id", "session_id")
