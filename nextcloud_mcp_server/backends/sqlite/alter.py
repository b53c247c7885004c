"""Add missing objects inside the transaction of a migration.

Only additions, renames and the recreation of a cache: nothing here can lose a grant.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Set

from nextcloud_mcp_server.backends.sqlite.catalog import Execute, read_structure
from nextcloud_mcp_server.schema.structure import Gaps, Structure, Table, quoted

logger = logging.getLogger(__name__)


def attached(execute: Execute) -> Mapping[str, tuple[str, str]]:
    """Return the table and the statement of every index and trigger, by name."""
    rows = execute(
        "SELECT name, tbl_name, sql FROM sqlite_master "
        "WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
    )
    return {name.lower(): (table.lower(), sql) for name, table, sql in rows}


def attach(execute: Execute, before: Mapping[str, tuple[str, str]], ours: Set[str]) -> None:
    """Create again what an operator had attached to a table that was recreated.

    SQLite drops indexes and triggers with their table, and a revision creates only ``ours``.
    One that no longer fits the table is logged.
    """
    # Imported already by the caller.
    from sqlalchemy.exc import DatabaseError  # noqa: PLC0415

    there, tables = attached(execute), read_structure(execute).tables
    for name, (table, sql) in before.items():
        if name in ours or name in there or table not in tables:
            continue
        try:
            execute(sql)
        except DatabaseError as error:
            logger.warning("%s on %s could not be created again: %s", name, table, error.orig)


def remake(execute: Execute, there: Structure, wanted: Structure, names: Iterable[str]) -> None:
    """Recreate each table in its wanted shape, with the rows that fit."""
    for name in names:
        old, new = there.tables[name], wanted.tables[name]
        aside = f"_replaced_{name}"
        # Not renamed: views and triggers would follow the old table.
        execute(f"DROP TABLE IF EXISTS {quoted(aside)}")
        execute(f"CREATE TABLE {quoted(aside)} AS SELECT * FROM {quoted(name)}")  # noqa: S608
        execute(f"DROP TABLE {quoted(name)}")
        execute(new.sql)
        _copy(execute, name, aside, old, new)
        execute(f"DROP TABLE {quoted(aside)}")
        for index, owner in wanted.owners.items():
            if owner == name:
                execute(wanted.indexes[index])


def _copy(execute: Execute, name: str, aside: str, old: Table, new: Table) -> None:
    shared = [column for column in new.columns if column in old.columns]
    if not new.required <= set(shared):
        return
    columns = ", ".join(quoted(column) for column in shared)
    filled = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in sorted(new.required))
    execute(
        f"INSERT OR IGNORE INTO {quoted(name)} ({columns}) "  # noqa: S608 - our own names
        f"SELECT {columns} FROM {quoted(aside)} WHERE {filled}"
    )


def fill(execute: Execute, missing: Gaps, wanted: Structure) -> None:
    """Add the missing tables, then columns, then indexes, as ``wanted`` declares them."""
    for name in missing.tables:
        execute(wanted.tables[name].sql)
    for name, column in missing.columns:
        declaration = wanted.tables[name].columns[column].declaration
        execute(f"ALTER TABLE {quoted(name)} ADD COLUMN {quoted(column)} {declaration}")
    for index in missing.indexes:
        execute(wanted.indexes[index])
