"""Decide what is copied and what stays behind. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sqlalchemy import Boolean, Column, Float, Integer, Table, UniqueConstraint
from sqlalchemy.sql.sqltypes import TIMESTAMP, BigInteger

from nextcloud_mcp_server.maintenance.copy import values
from nextcloud_mcp_server.schema import tables
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import JOURNAL_TABLE, Structure


class Left(NamedTuple):
    """What stays behind.

    Attributes:
        what: ``table``, ``column``, ``view``, ``trigger`` or ``index``.
        name: its name.
        rows: the rows of a table; None if they were not counted.
    """

    what: str
    name: str
    rows: int | None = None


#: The tables that are created with a database, with rows of their own.
OWN_ROWS: Final = frozenset({JOURNAL_TABLE})


def parts(source: History, target: History) -> tuple[values.Part, ...]:
    """Return the tables at head that both engines have, but for the journal of migrations."""
    here = source.structure(source.head).tables
    there = target.structure(target.head).tables
    engines = (source.engine, target.engine)
    return tuple(
        _part(table, here[name].columns.keys() & there[name].columns.keys(), engines)
        for name, table in tables.metadata.tables.items()
        if name in here and name in there and name not in OWN_ROWS
    )


def _part(table: Table, names: Iterable[str], engines: tuple[str, str]) -> values.Part:
    columns = [column for column in table.columns if column.name in names]
    made = tuple(
        values.Column(column.name, _kind(column, engines), not column.nullable)
        for column in columns
    )
    key = tuple(at for at, column in enumerate(columns) if column.primary_key)
    return values.Part(table.name, made, key, _unique(table, columns))


def _unique(table: Table, columns: Sequence[Column[object]]) -> tuple[int, ...]:
    """Return the positions of the columns with a UNIQUE of their own, which early tables lack."""
    found = [c.columns for c in table.constraints if isinstance(c, UniqueConstraint)]
    alone = {name for names in found if len(names) == 1 for name in names.keys()}  # noqa: SIM118
    return tuple(at for at, column in enumerate(columns) if column.name in alone)


def _kind(column: Column[object], engines: tuple[str, str]) -> values.Kind:
    kind = column.type
    if isinstance(kind, tables.Ciphertext):
        return values.Ciphertext()
    if isinstance(kind, Boolean):
        return values.Boolean()
    if isinstance(kind, TIMESTAMP):
        # Between two files the text stays as it is.
        return values.Moment() if "postgresql" in engines else values.Text()
    if isinstance(kind, Float):
        return values.Real()
    if isinstance(kind, Integer):
        # On SQLite every whole number has 64 bits.
        small = engines[1] == "postgresql" and not isinstance(kind, BigInteger)
        return values.Whole(32 if small else 64)
    return values.Text()


def left_behind(there: Structure, copied: Iterable[values.Part], history: History) -> list[Left]:
    """Return what is in a database and is not copied, in the order of the names."""
    known = {part.table: {column.name for column in part.columns} for part in copied}
    found = [Left("table", name) for name in there.own_tables - known.keys()]
    for name, columns in known.items():
        table = there.tables.get(name)
        surplus = table.columns.keys() - columns if table else ()
        found += [Left("column", f"{name}.{column}") for column in surplus]
    found += [Left("view", name) for name in there.others]
    found += [Left("trigger", f"{name} on {table}") for name, table in there.triggers.items()]
    found += [
        Left("index", f"{name} on {there.owners[name]}")
        for name in there.indexes
        if name not in history.indexes and there.owners[name] in known
    ]
    return sorted(found, key=lambda left: (left.what, left.name))
