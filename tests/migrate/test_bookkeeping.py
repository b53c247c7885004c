"""The tables that replication and administration tools add to any database are nobody's data."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.migrate.plan import Action, State
from tests.cli.places import execute, rows
from tests.migrate.databases import versions
from tests.support.by_path import downgrade, inspect, prepare
from tests.support.errors import refuses
from tests.support.revisions import HEAD

#: What each tool creates in an empty database.
TOOLS = {
    "Litestream": (
        "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)",
        "CREATE TABLE _litestream_lock (id INTEGER)",
        "INSERT INTO _litestream_seq VALUES (1, 7)",
    ),
    "cr-sqlite": (
        "CREATE TABLE crsql_master (key TEXT PRIMARY KEY, value ANY)",
        "CREATE TABLE crsql_site_id (site_id BLOB NOT NULL, ordinal INTEGER PRIMARY KEY)",
        "CREATE UNIQUE INDEX crsql_site_id_site_id ON crsql_site_id (site_id)",
        "INSERT INTO crsql_site_id VALUES (x'00', 0)",
    ),
    "Corrosion": (
        "CREATE TABLE __corro_state (key TEXT NOT NULL PRIMARY KEY, value)",
        "INSERT INTO __corro_state VALUES ('schema_version', 3)",
    ),
    "sqlite-utils": ("CREATE TABLE _counts ([table] TEXT PRIMARY KEY, count INTEGER DEFAULT 0)",),
    "Cloudflare D1": ("CREATE TABLE _cf_KV (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID",),
    "libSQL": ("CREATE TABLE libsql_wasm_func_table (name text PRIMARY KEY, body text)",),
    "migrations of D1": ("CREATE TABLE d1_migrations (id INTEGER PRIMARY KEY, name TEXT UNIQUE)",),
    "Turso": ("CREATE TABLE turso_cdc (change_id INTEGER PRIMARY KEY AUTOINCREMENT, id)",),
    "Marmot": ("CREATE TABLE __marmot__change_log_global (id INTEGER PRIMARY KEY, table_name)",),
    "SQLite": (
        "CREATE TABLE gone (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO gone VALUES (7)",
        "DROP TABLE gone",
        "ANALYZE",
    ),
}


@pytest.mark.parametrize("statements", TOOLS.values(), ids=TOOLS)
def test_a_database_with_bookkeeping_alone_is_new(path: Path, statements: tuple[str, ...]) -> None:
    """It is created at head; the tables and rows of the tool stay; so they do at base."""
    execute(path, *statements)
    listed = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    there = rows(path, listed)
    before = {name: rows(path, f'SELECT * FROM "{name}"') for name, sql in there if "TABLE" in sql}
    assert inspect(path).finding.state is State.NEW
    outcome = prepare(path)
    done = outcome.action, outcome.backup
    assert done == (Action.CREATE, None)
    assert versions(path) == [HEAD]
    assert set(there) <= set(rows(path, listed))
    downgrade(path, "base")
    assert inspect(path).finding.state is State.NEW
    prepare(path)
    assert {name: rows(path, f'SELECT * FROM "{name}"') for name in before} == before


def test_bookkeeping_beside_tables_of_another_program_changes_nothing(path: Path) -> None:
    """The database is foreign, and the reason names the other program's tables."""
    execute(path, *TOOLS["Litestream"], "CREATE TABLE notes (id INTEGER)")
    with refuses("foreign", "it holds notes, and no table of this program"):
        prepare(path)
