"""The schema of a database as facts, and the differences between two schemas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.engine import Inspector

#: Alembic's own table, which schema.py does not declare.
_IGNORED: Final = "alembic_version"

Facts = dict[str, tuple[Any, ...]]


def facts(connection: sa.Connection) -> Facts:
    """Return every table, column, key, constraint and index by a readable name."""
    inspector = sa.inspect(connection)
    found: Facts = {}
    for table in inspector.get_table_names():
        if table != _IGNORED:
            found[f"table {table}"] = ()
            found |= _columns(inspector, table, connection.dialect)
            found |= _constraints(inspector, table)
    return found


def _columns(inspector: Inspector, table: str, dialect: sa.Dialect) -> Facts:
    key = inspector.get_pk_constraint(table)["constrained_columns"]
    columns: Facts = {f"primary key of {table}": tuple(key)}
    for column in inspector.get_columns(table):
        default = column["default"]
        if default and default.startswith("nextval("):
            default = "a sequence"
        columns[f"column {table}.{column['name']}"] = (
            column["type"].compile(dialect),
            # SQLite allows NULL in a text key of raw SQL; the program never writes one.
            "NULL" if column["nullable"] and column["name"] not in key else "NOT NULL",
            default,
        )
    return columns


def _constraints(inspector: Inspector, table: str) -> Facts:
    named: Facts = {}
    for unique in inspector.get_unique_constraints(table):
        named[f"unique {table}({', '.join(unique['column_names'])})"] = ()
    for check in inspector.get_check_constraints(table):
        named[f"check of {table}: {check['sqltext']}"] = ()
    for foreign in inspector.get_foreign_keys(table):
        named[f"foreign key {table}({', '.join(foreign['constrained_columns'])})"] = (
            foreign["referred_table"],
            *foreign["referred_columns"],
            *sorted(foreign["options"].items()),
        )
    for index in inspector.get_indexes(table):
        if "duplicates_constraint" not in index:
            named[f"index {index['name']}"] = (
                table,
                *index["column_names"],
                bool(index["unique"]),
                str(index.get("dialect_options")),
            )
    return named


def drift(declared: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Return the differences between the declared schema and the one that migrations create."""
    return [
        *(f"only in schema.py: {name}" for name in sorted(declared.keys() - made.keys())),
        *(f"only in the database: {name}" for name in sorted(made.keys() - declared.keys())),
        *(
            f"{name} is {declared[name]} in schema.py, {made[name]} in the database"
            for name in sorted(declared.keys() & made.keys())
            if declared[name] != made[name]
        ),
    ]
