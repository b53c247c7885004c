"""Kinds of statements that several concerns use, built once at import."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Insert, Text, bindparam, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

if TYPE_CHECKING:
    from sqlalchemy import Column, Delete, Label, Select, Table, Update
    from sqlalchemy.sql.compiler import SQLCompiler


#: The most rows that one transaction deletes because they are expired: it takes some
#: milliseconds, in which nobody else can write.
AT_ONCE: Final = 500


class Upsert(Insert):
    """``INSERT ... ON CONFLICT (key) DO UPDATE``, the same on SQLite and PostgreSQL."""

    # The clause below follows from the table and the columns, which are in Insert's key.
    inherit_cache = True

    replaced: tuple[str, ...] = ()


@compiles(Upsert)
def _compile(element: Upsert, compiler: SQLCompiler, **kwargs: Any) -> str:
    quote = compiler.preparer.quote
    key = ", ".join(quote(column.name) for column in cast("Table", element.table).primary_key)
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in element.replaced)
    insert: str = compiler.visit_insert(element, **kwargs)  # type: ignore[no-untyped-call]  # SQLAlchemy's
    return f"{insert} ON CONFLICT ({key}) DO UPDATE SET {changes}"


class _InRow(FunctionElement[str]):
    """A column read from the row. SQLite would read it from the index that led to the row."""

    inherit_cache = True
    type = Text()


@compiles(_InRow)
def _compile_plain(element: _InRow, compiler: SQLCompiler, **kwargs: Any) -> str:
    return compiler.process(element.clauses, **kwargs)


@compiles(_InRow, "sqlite")
def _compile_by_rowid(element: _InRow, compiler: SQLCompiler, **_: Any) -> str:
    [column] = element.clauses
    quote = compiler.preparer.quote
    name, table = quote(column.name), quote(cast("Column[str]", column).table.name)
    return f"(SELECT own.{name} FROM {table} AS own WHERE own.rowid = {table}.rowid)"  # noqa: S608


def in_row(column: Column[Any]) -> Label[str]:
    """Select the key in the row itself as ``own``, for :func:`.values.check_row`.

    A flipped bit in an index can lead to the row of another user, and a Fernet token is not
    bound to its row.
    """
    return _InRow(column).label("own")


def rows_with(key: Column[Any], *columns: Column[Any]) -> Select[Any]:
    """Select ``columns`` of the rows that have a key.

    A text key of an early release may be NULL: such a row belongs to no user.
    """
    return select(*columns).where(key.is_not(None))


def expired(key: Column[Any], expires_at: Column[Any], *columns: Column[Any]) -> Select[Any]:
    """Select the :data:`AT_ONCE` rows that expired first, in the order of their key.

    The index of ``expires_at`` finds them. All writers of several rows lock them in the order
    of the key, so none waits for another in a circle.
    """
    is_expired = expires_at <= bindparam("now")
    first = rows_with(key, key).where(is_expired).order_by(expires_at).limit(AT_ONCE)
    # The condition again, for the row itself: a damaged index may lead to another one.
    return rows_with(key, *columns).where(key.in_(first.correlate(None)), is_expired).order_by(key)


def oldest(key: Column[Any], timestamp: Column[Any], most: int) -> Select[Any]:
    """Select the keys of at most ``most`` rows from before ``before``, the oldest.

    On PostgreSQL it skips the rows that another transaction deletes: no writer waits for one.
    """
    rows = select(key).where(timestamp < bindparam("before")).order_by(timestamp).limit(most)
    return rows.with_for_update(skip_locked=True).correlate(None)


def insertion(table: Table, *, without: tuple[str, ...] = ()) -> Insert:
    """Insert a row. Each column is the parameter of its name, except those in ``without``."""
    # inline: PostgreSQL need not return a generated key.
    return Insert(table).values(_parameters(table, without)).inline()


def upsert(table: Table, *, without: tuple[str, ...] = ()) -> Insert:
    """Insert a row, or replace the columns of the row with the same primary key.

    ``created_at`` is kept if there is also an ``updated_at``, and so are those in ``without``.
    """
    parameters = _parameters(table, without)
    kept = set(table.primary_key.columns.keys())
    if "updated_at" in parameters:
        kept.add("created_at")
    statement = Upsert(table).values(parameters).inline()
    statement.replaced = tuple(name for name in parameters if name not in kept)
    return statement


@lru_cache
def affected(statement: Delete | Update) -> Select[Any]:
    """Select the rows that ``statement`` changes."""
    matching = select(literal(1)).select_from(statement.table)
    return matching if statement.whereclause is None else matching.where(statement.whereclause)


@lru_cache
def kept(statement: Insert) -> Select[Any]:
    """Select the row that an insertion or an upsert has written, if it has its secrets."""
    table = cast("Table", statement.table)
    names = [c.name for c in table.columns if c.primary_key or c.name.startswith("encrypted_")]
    equal = (table.c[name].is_not_distinct_from(bindparam(name)) for name in names)
    return select(literal(1)).select_from(table).where(*equal)


def _parameters(table: Table, without: tuple[str, ...]) -> dict[str, Any]:
    names = (column.name for column in table.columns)
    return {name: bindparam(name) for name in names if name not in without}
