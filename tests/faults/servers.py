"""Databases on a server: one with rows that is behind, copies of it, and what is in a copy."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import sqlalchemy as sa

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate.startup import prepare
from tests.migrations.rows import seed
from tests.support.postgresql import Server

#: Several revisions below head.
BEHIND = "009"

#: What is written at a time, or counts up.
_JOURNAL = "migration_journal"

_DEFINITIONS = """
SELECT 'column', table_name, column_name, data_type, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '' FROM pg_indexes
WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', ''
FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
"""


def database_behind(server: Server) -> str:
    """Create a database at an old revision with rows in every table; return its name."""
    name = server.database()
    prepare(connect(server.url(name)), target=BEHIND)
    engine = sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(server.url(name)),
        poolclass=sa.NullPool,
    )
    with engine.begin() as connection:
        for table, rows in seed(BEHIND, "postgresql").items():
            for row in rows:
                target = sa.table(table, *(sa.column(column) for column in row))
                connection.execute(target.insert().values(row))
    engine.dispose()
    return name


def contents(server: Server, database: str) -> dict[str, Any]:
    """Return the definitions and the rows of a database, when the server answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with psycopg.connect(server.url(database), autocommit=True) as connection:
                return _contents(connection)
        except psycopg.Error:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _contents(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"": sorted(connection.execute(_DEFINITIONS).fetchall(), key=repr)}
    tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables.fetchall():
        columns = "count(*)" if table == _JOURNAL else "*"
        rows = connection.execute(f"SELECT {columns} FROM {table}".encode()).fetchall()
        found[table] = sorted(rows, key=repr)
    return found
