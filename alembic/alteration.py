"""Give a table of PostgreSQL another shape by ALTER TABLE.

Nothing is made anew, so indexes, sequences, privileges and the foreign keys of other tables
stay as they are, and what stands in the way (a view on a column whose type changes) stops it.
PostgreSQL itself says what the wanted shape is: it is made once as an empty temporary table,
and the catalogue's words for both are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import op
from alembic.operations.ops import CreateTableOp
from alembic.util import CommandError

_COLUMNS = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid)
    FROM pg_attribute a
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""
# NOT NULL, which is a constraint of its own since PostgreSQL 18, stands with the columns.
_CONSTRAINTS = """
    SELECT conname, pg_get_constraintdef(oid),
           array(SELECT attname::text FROM pg_attribute
                 WHERE attrelid = conrelid AND attnum = ANY (conkey))
    FROM pg_constraint WHERE conrelid = to_regclass(%(table)s) AND contype IN ('p', 'u', 'c', 'f')
    ORDER BY conname
"""
_WANTED = "_alembic_wanted"
_SEQUENCE = "nextval("

Ask = Callable[..., Sequence[Sequence[Any]]]
Run = Callable[[str], None]


class Column(NamedTuple):
    """A column in the catalogue's words."""

    type: str
    required: bool
    default: str | None

    @property
    def counts(self) -> bool:
        """Whether a sequence fills it."""
        return (self.default or "").startswith(_SEQUENCE)


class Constraint(NamedTuple):
    """A constraint in the catalogue's words."""

    name: str
    definition: str
    columns: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        """What two definitions that mean the same have in common."""
        return re.sub(r"\s", "", self.definition)


class Shape(NamedTuple):
    """A table: its columns by name, in order, and its constraints."""

    columns: dict[str, Column]
    constraints: list[Constraint]


class Alteration:
    """Changes tables of the database that it may ask.

    Args:
        ask: answers a question about the database.
        run: executes a statement.
    """

    def __init__(self, ask: Ask, run: Run) -> None:
        self._ask = ask
        self._run = run
        self._dialect = op.get_context().dialect

    def reshape(
        self, name: str, elements: Sequence[Any], values: Mapping[str, str], drop: frozenset[str]
    ) -> bool:
        """Give a table its wanted shape, as ``Guards.recreate_table`` says it, names folded.

        Whether there was anything to do.
        """
        quoted = self._dialect.identifier_preparer.quote
        there = self._shape(quoted(name))
        if not there.columns:
            raise CommandError(f"The table {name}, which is to be recreated, is not there.")
        table = CreateTableOp(name, list(elements)).to_table(op.get_context())
        wanted = self._wanted(table)
        statements = [*steps(name, there, wanted, values=values, drop=drop, quoted=quoted)]
        for statement in statements:
            self._run(statement)
        return bool(statements)

    def _wanted(self, table: sa.Table) -> Shape:
        """What PostgreSQL makes of ``table``."""
        creating = sa.schema.CreateTable(table, include_foreign_key_constraints=[])
        made = str(creating.compile(dialect=self._dialect))
        name = self._dialect.identifier_preparer.format_table(table)
        self._run(made.replace(f"CREATE TABLE {name}", f"CREATE TEMPORARY TABLE {_WANTED}", 1))
        shape = self._shape(f"pg_temp.{_WANTED}")
        self._run(f"DROP TABLE pg_temp.{_WANTED}")
        # A temporary table cannot point at one that stays, so these are our own words.
        compiler = self._dialect.ddl_compiler(self._dialect, None)
        for constraint in table.foreign_key_constraints:
            text = compiler.process(constraint)
            members = tuple(column.name for column in constraint.columns)
            words = text[text.index("FOREIGN KEY") :]
            shape.constraints.append(Constraint(str(constraint.name or _WANTED), words, members))
        return shape

    def _shape(self, table: str) -> Shape:
        return Shape(
            {
                name: Column(type_, required, default)
                for name, type_, required, default in self._ask(_COLUMNS, {"table": table})
            },
            [
                Constraint(name, definition, tuple(members))
                for name, definition, members in self._ask(_CONSTRAINTS, {"table": table})
            ],
        )


def steps(
    table: str,
    there: Shape,
    wanted: Shape,
    *,
    values: Mapping[str, str],
    drop: frozenset[str],
    quoted: Callable[[str], str],
) -> Iterator[str]:
    """The statements that turn ``there`` into ``wanted``; surplus columns stay.

    Raises:
        CommandError: PostgreSQL could not do it, or rows could not have a value.
    """
    alter = f"ALTER TABLE {quoted(table)} "
    going = [name for name in there.columns if name in drop and name not in wanted.columns]
    surplus = there.columns.keys() - wanted.columns.keys() - drop
    declared = {c.plain for c in wanted.constraints}
    kept = [c for c in there.constraints if c.plain in declared or surplus & set(c.columns)]
    changed = {
        name: (there.columns.get(name), column)
        for name, column in wanted.columns.items()
        if not _same(there.columns.get(name), column)
    }
    missing = [c for c in wanted.constraints if c.plain not in {k.plain for k in kept}]
    if not (going or changed or missing or len(kept) < len(there.constraints)):
        return
    yield from (
        f"{alter}DROP CONSTRAINT {quoted(c.name)}" for c in there.constraints if c not in kept
    )
    for name, (old, new) in changed.items():
        if old is None:
            yield alter + _adding(table, name, new, values, quoted)
    converted = {n for n, (old, new) in changed.items() if old and old.type != new.type}
    filled = [n for n in wanted.columns if n in values and n not in converted]
    if filled:
        settings = ", ".join(f"{quoted(name)} = ({values[name]})" for name in filled)
        yield f"UPDATE {quoted(table)} SET {settings}"  # noqa: S608
    for name, (old, new) in changed.items():
        yield from (alter + step for step in _changing(name, old, new, values, quoted))
    yield from (f"{alter}DROP COLUMN {quoted(name)}" for name in going)
    for c in missing:
        # PostgreSQL names a constraint after its table where the migration does not.
        name = "" if c.name.startswith(_WANTED) else f"CONSTRAINT {quoted(c.name)} "
        yield f"{alter}ADD {name}{c.definition}"


def _same(old: Column | None, new: Column) -> bool:
    if old is not None and old.counts and new.counts:
        # Any sequence is as good.
        return old[:2] == new[:2]
    return old == new


def _adding(
    table: str, name: str, new: Column, values: Mapping[str, str], quoted: Callable[[str], str]
) -> str:
    if new.counts:
        kind = {"integer": "SERIAL", "bigint": "BIGSERIAL", "smallint": "SMALLSERIAL"}[new.type]
        return f"ADD COLUMN {quoted(name)} {kind}"
    if new.required and new.default is None and name not in values:
        raise CommandError(
            f"{table} lacks the required column {name}: say in values what it is for the rows "
            "that are there."
        )
    default = "" if new.default is None else f" DEFAULT {new.default}"
    return f"ADD COLUMN {quoted(name)} {new.type}{default}"


def _changing(
    name: str,
    old: Column | None,
    new: Column,
    values: Mapping[str, str],
    quoted: Callable[[str], str],
) -> Iterator[str]:
    """The actions for one column that is there by now."""
    column = f"ALTER COLUMN {quoted(name)} "
    old = old or new._replace(required=new.counts)
    if new.counts and not old.counts:
        raise CommandError(f"{name} cannot begin to count its rows: add another column.")
    if old.type != new.type:
        if old.default is not None and not old.counts:
            # It may not fit the new type.
            yield f"{column}DROP DEFAULT"
            old = old._replace(default=None)
        using = values.get(name, f"{quoted(name)}::{new.type}")
        yield f"{column}TYPE {new.type} USING ({using})"
    if old.default != new.default and not (old.counts and new.counts):
        yield (
            f"{column}DROP DEFAULT"
            if new.default is None
            else (f"{column}SET DEFAULT {new.default}")
        )
    if old.required != new.required:
        yield f"{column}{'SET' if new.required else 'DROP'} NOT NULL"
