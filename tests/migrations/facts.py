"""The tables at each revision, as an engine describes them.

They come from :mod:`tests.support.facts`, not from the migrations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from tests.support import facts as field
from tests.support import revisions

Lineage = Literal["raw", "portable", "postgresql"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column; ``default`` is SQL, ``key`` the position in the primary key or 0."""

    name: str
    type: str
    required: bool
    default: str | None
    key: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its columns in order, its unique constraints and its named indexes."""

    columns: tuple[Column, ...]
    uniques: tuple[tuple[str, ...], ...] = ()
    indexes: tuple[tuple[str, tuple[str, ...]], ...] = ()


REVISIONS: Final = revisions.ALL

HEAD: Final = revisions.HEAD

_POSTGRESQL_TYPES: Final = {
    "BLOB": "bytea",
    "FLOAT": "double precision",
    "TIMESTAMP": "timestamp without time zone",
}


def tables(revision: str, lineage: Lineage = "portable") -> dict[str, Table]:
    """Return every table at ``revision`` (``base``: none) except Alembic's.

    For revisions without facts see :mod:`.newer`.
    """
    if revision in revisions.NEWER:
        from tests.migrations import newer  # noqa: PLC0415 - it is made of these facts

        return (
            newer.ON_POSTGRESQL[revision] if lineage == "postgresql" else newer.on_sqlite(revision)
        )
    known: dict[str, Table] = {}
    for step in revisions.KNOWN:
        if revision == "base" or step > revision:
            break
        for action, *names in field.STEPS[step]:
            _take(known, action, names, lineage)
    if lineage == "postgresql":
        # No release created or read it there.
        known.pop("schema_version", None)
    return known


def _take(known: dict[str, Table], action: str, names: list[str], lineage: Lineage) -> None:
    """Apply a step of a revision to ``known``."""
    name = names[0]
    match action:
        case "table":
            columns = (
                column
                for column in field.TABLES[name].columns
                if (name, column.name) not in field.ADDED_LATER
            )
            unique = field.TABLES[name].unique
            known[name] = Table((), (unique,) if unique else ())
            for column in columns:
                known[name] = _widened(known[name], column, lineage)
        case "column":
            column = field.TABLES[name].column(names[1])
            known[name] = _widened(known[name], column, lineage)
        case "index":
            index = field.INDEXES[name]
            there = known[index.table]
            members = tuple(index.columns.split(", "))
            indexes = tuple(sorted((*there.indexes, (name, members))))
            known[index.table] = replace(there, indexes=indexes)
        case "drop-table":
            del known[name]


def _widened(table: Table, column: field.Column, lineage: Lineage) -> Table:
    key = 1 + sum(1 for other in table.columns if other.key) if column.key else 0
    return replace(table, columns=(*table.columns, _column(column, key, lineage)))


previous = revisions.previous


def _column(column: field.Column, key: int, lineage: Lineage) -> Column:
    type_ = column.raw if lineage == "raw" else column.portable
    default = (column.default if lineage == "raw" else column.portable_default) or None
    if lineage == "postgresql":
        if key and type_ == "INTEGER":
            default = "serial"
        elif type_ == "BOOLEAN":
            default = "false"
        type_ = _POSTGRESQL_TYPES.get(type_, type_.lower())
    required = column.required or (bool(key) and lineage != "raw")
    return Column(column.name, type_, required, default, key)


def raw_statements(revision: str) -> list[str]:
    """Return the statements of a release before v0.87.0 for a file at ``revision``."""
    statements = []
    for name, table in tables(revision, "raw").items():
        parts = [_raw_column(name, table, column) for column in table.columns]
        keys = [column.name for column in table.columns if column.key]
        if len(keys) > 1:
            parts.append(f"PRIMARY KEY ({', '.join(keys)})")
        parts += [f"UNIQUE({', '.join(unique)})" for unique in table.uniques]
        statements.append(f"CREATE TABLE IF NOT EXISTS {name} (\n  {', '.join(parts)}\n)")
        statements += [
            f"CREATE INDEX {index} ON {name}({', '.join(columns)})"
            for index, columns in table.indexes
        ]
    return [*statements, field.VERSION_TABLE, f"INSERT INTO alembic_version VALUES ('{revision}')"]


def _raw_column(name: str, table: Table, column: Column) -> str:
    text = f"{column.name} {column.type}"
    if column.key and sum(1 for other in table.columns if other.key) == 1:
        text += " PRIMARY KEY"
        if field.TABLES[name].counted:
            text += " AUTOINCREMENT"
    if column.required:
        text += " NOT NULL"
    if column.default is not None:
        text += f" DEFAULT {column.default}"
    return text
