"""Read the structure of a database in the notation of the facts."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tests.migrations.facts import Column, Table

if TYPE_CHECKING:
    import sqlalchemy as sa

SQLITE_CATALOGUE: Final = """
    SELECT type, name, tbl_name, sql FROM sqlite_master
    WHERE tbl_name <> 'alembic_version' ORDER BY type, name
"""

POSTGRESQL_CATALOGUE: Final = """
    SELECT 'relation', c.relname::text, concat_ws(' ', c.relkind, c.reloptions),
           pg_get_indexdef(c.oid)
    FROM pg_class c WHERE c.relnamespace = current_schema()::regnamespace
    UNION ALL
    SELECT 'sequence', sequencename::text, data_type::text, max_value::text
    FROM pg_sequences WHERE schemaname = current_schema()
    UNION ALL
    SELECT 'constraint', conname::text, conrelid::regclass::text, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
    UNION ALL
    SELECT 'column', column_name, table_name,
           concat_ws(' ', data_type, is_nullable, column_default)
    FROM information_schema.columns WHERE table_schema = current_schema()
    ORDER BY 1, 2, 3, 4
"""

_SQLITE_TABLES: Final = """
    SELECT name FROM sqlite_master WHERE type = 'table'
    AND name NOT LIKE 'sqlite~_%' ESCAPE '~' AND name <> 'alembic_version'
"""

_POSTGRESQL_COLUMNS: Final = """
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid),
           coalesce(array_position(k.conkey, a.attnum), 0)
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
      AND c.relname <> 'alembic_version'
    ORDER BY c.relname, a.attnum
"""

_POSTGRESQL_INDEXES: Final = """
    SELECT t.relname, x.relname, k.contype,
           array(SELECT pg_get_indexdef(i.indexrelid, n, true)
                 FROM generate_series(1, i.indnkeyatts) n)
    FROM pg_index i
    JOIN pg_class t ON t.oid = i.indrelid
    JOIN pg_class x ON x.oid = i.indexrelid
    LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid
    WHERE t.relnamespace = current_schema()::regnamespace AND t.relname <> 'alembic_version'
"""


def sqlite_tables(connection: sa.Connection) -> dict[str, Table]:
    """Return every table of SQLite."""
    names = [name for (name,) in connection.exec_driver_sql(_SQLITE_TABLES).all()]
    return {name: _sqlite_table(connection, name) for name in names}


def _sqlite_table(connection: sa.Connection, table: str) -> Table:
    columns = tuple(
        Column(name, type_, bool(required), default, key)
        for _, name, type_, required, default, key, _ in connection.exec_driver_sql(
            f'PRAGMA table_xinfo("{table}")'
        ).all()
    )
    uniques, indexes = [], []
    for _, index, _, origin, _ in connection.exec_driver_sql(f'PRAGMA index_list("{table}")').all():
        members = tuple(
            name for _, _, name in connection.exec_driver_sql(f'PRAGMA index_info("{index}")').all()
        )
        if origin == "u":
            uniques.append(members)
        elif origin == "c":
            indexes.append((index, members))
    return Table(columns, tuple(sorted(uniques)), tuple(sorted(indexes)))


def postgresql_tables(connection: sa.Connection) -> dict[str, Table]:
    """Return every table of PostgreSQL's current schema."""
    columns: dict[str, list[Column]] = defaultdict(list)
    for table, name, type_, required, default, key in connection.exec_driver_sql(
        _POSTGRESQL_COLUMNS
    ):
        text = default and default.removesuffix("::text")
        if text and text.startswith("nextval("):
            text = "serial"
        columns[table].append(Column(name, type_, required, text, key))
    uniques: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    indexes: dict[str, list[tuple[str, tuple[str, ...]]]] = defaultdict(list)
    for table, index, origin, members in connection.exec_driver_sql(_POSTGRESQL_INDEXES):
        # The catalogue quotes what could be a keyword ("timestamp").
        names = tuple(member.strip('"') for member in members)
        if origin == "u":
            uniques[table].append(names)
        elif origin is None:
            indexes[table].append((index, names))
    return {
        table: Table(tuple(members), tuple(sorted(uniques[table])), tuple(sorted(indexes[table])))
        for table, members in columns.items()
    }
