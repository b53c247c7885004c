"""Change a table of PostgreSQL with ALTER TABLE, so that all else of it stays.

The wanted table is created as an empty temporary table, and the catalogue's descriptions of
both are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

_SEQUENCE = "nextval"
_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           regexp_replace(pg_get_expr(d.adbin, d.adrelid), '^nextval[(].*', 'nextval')
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""
# Not NOT NULL, which is a constraint since PostgreSQL 18: it is read with the columns.
_CONSTRAINTS = """
    SELECT regexp_replace(pg_get_constraintdef(oid), '[[:space:]]', '', 'g'), conname,
           pg_get_constraintdef(oid),
           array(SELECT attname::text FROM pg_attribute
                 WHERE attrelid = conrelid AND attnum = ANY (conkey))
    FROM pg_constraint WHERE conrelid = to_regclass(%(table)s) AND contype IN ('p', 'u', 'c', 'f')
    ORDER BY conname
"""
_WANTED = "_alembic_wanted"
_SERIAL = {"integer": "SERIAL", "bigint": "BIGSERIAL", "smallint": "SMALLSERIAL"}

Execute = Callable[..., Sequence[Any]]


class Column(NamedTuple):
    """A column in the catalogue; a sequence of any name is the default ``nextval``."""

    type: str
    required: bool
    default: str | None


class Shape(NamedTuple):
    """Columns by name; constraints (name, definition, columns) by definition without spaces."""

    columns: dict[str, Column]
    constraints: dict[str, list[Any]]


def alter(
    execute: Execute, table: sa.Table, values: Mapping[str, str], drop: frozenset[str]
) -> None:
    """Change a table if it differs from ``table``.

    Raises:
        CommandError: see ``Guards.recreate_table``.
    """
    quoted = op.get_context().dialect.identifier_preparer.quote
    old = _shape(execute, quoted(table.name))
    if not old.columns:
        raise CommandError(f"recreate_table: the table {table.name} does not exist.")
    for statement in _statements(table.name, old, _wanted(execute, table), values, drop):
        execute(statement)


def _shape(execute: Execute, table: str) -> Shape:
    columns = {name: Column(*facts) for name, *facts in execute(_COLUMNS, {"table": table})}
    constraints = {plain: rest for plain, *rest in execute(_CONSTRAINTS, {"table": table})}
    return Shape(columns, constraints)


def _wanted(execute: Execute, table: sa.Table) -> Shape:
    dialect = op.get_context().dialect
    creating = sa.schema.CreateTable(table, include_foreign_key_constraints=[])
    name = dialect.identifier_preparer.format_table(table)
    sql = str(creating.compile(dialect=dialect))
    execute(sql.replace(f"CREATE TABLE {name}", f"CREATE TEMPORARY TABLE {_WANTED}", 1))
    shape = _shape(execute, f"pg_temp.{_WANTED}")
    execute(f"DROP TABLE pg_temp.{_WANTED}")
    # A temporary table cannot reference a permanent one, so SQLAlchemy's text is compared.
    for constraint in table.foreign_key_constraints:
        text = dialect.ddl_compiler(dialect, None).process(constraint)
        text = text[text.index("FOREIGN KEY") :]
        members = [column.name for column in constraint.columns]
        shape.constraints["".join(text.split())] = [str(constraint.name or _WANTED), text, members]
    return shape


def _statements(
    table: str, old: Shape, wanted: Shape, values: Mapping[str, str], drop: frozenset[str]
) -> Iterator[str]:
    quoted = op.get_context().dialect.identifier_preparer.quote
    alter = f"ALTER TABLE {quoted(table)} "
    surplus = old.columns.keys() - wanted.columns.keys() - drop
    kept = {
        plain
        for plain, (_, _, members) in old.constraints.items()
        if plain in wanted.constraints or surplus & set(members)
    }
    changed = {n: c for n, c in wanted.columns.items() if old.columns.get(n) != c}
    removed, added = old.constraints.keys() - kept, wanted.constraints.keys() - kept
    dropped = old.columns.keys() & drop
    if not (changed or removed or added or dropped):
        return
    yield from (f"{alter}DROP CONSTRAINT {quoted(old.constraints[p][0])}" for p in sorted(removed))
    for name, new in changed.items():
        if name not in old.columns:
            if new.required and new.default is None and name not in values:
                raise CommandError(
                    f"{table} lacks the required column {name}: give its value for existing "
                    "rows in values."
                )
            default = f"{new.type} DEFAULT {new.default}" if new.default else new.type
            serial = _SERIAL.get(new.type, "") if new.default == _SEQUENCE else ""
            yield f"{alter}ADD COLUMN {quoted(name)} {serial or default}"
    # The values of a column whose type changes are set with the type.
    filled = [
        f"{quoted(name)} = ({values[name]})"
        for name, new in wanted.columns.items()
        if name in values and old.columns.get(name, new).type == new.type
    ]
    if filled:
        yield f"UPDATE {quoted(table)} SET {', '.join(filled)}"  # noqa: S608
    for name, new in changed.items():
        column = f"{alter}ALTER COLUMN {quoted(name)} "
        using = values.get(name, f"{quoted(name)}::{new.type}")
        yield from (column + action for action in _actions(name, old.columns.get(name), new, using))
    yield from (f"{alter}DROP COLUMN {quoted(name)}" for name in sorted(dropped))
    for name, definition, _ in (wanted.constraints[p] for p in wanted.constraints if p in added):
        # PostgreSQL derives the name of an unnamed constraint from the table.
        named = "" if name.startswith(_WANTED) else f"CONSTRAINT {quoted(name)} "
        yield f"{alter}ADD {named}{definition}"


def _actions(name: str, old: Column | None, new: Column, using: str) -> Iterator[str]:
    """Yield the ALTER COLUMN actions; None for a column that was added without NOT NULL."""
    required, default = new.default == _SEQUENCE, new.default
    if old is not None:
        _, required, default = old
        if new.default == _SEQUENCE != default:
            raise CommandError(f"{name} cannot get a sequence: add another column.")
        if old.type != new.type:
            if default not in (None, _SEQUENCE):
                yield "DROP DEFAULT"  # it may not fit the new type
                default = None
            yield f"TYPE {new.type} USING ({using})"
    if default != new.default:
        yield f"SET DEFAULT {new.default}" if new.default else "DROP DEFAULT"
    if required != new.required:
        yield f"{'SET' if new.required else 'DROP'} NOT NULL"
