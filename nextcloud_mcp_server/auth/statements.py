"""The shapes of statement that several concerns share, built once at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Insert, bindparam
from sqlalchemy.ext.compiler import compiles

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.sql.compiler import SQLCompiler


class _Upsert(Insert):
    """``INSERT ... ON CONFLICT (key) DO UPDATE``, which SQLite and PostgreSQL spell alike."""

    # The clause below follows from the table and the columns, which are in Insert's key.
    inherit_cache = True

    replaced: tuple[str, ...] = ()


@compiles(_Upsert)
def _compile(element: _Upsert, compiler: SQLCompiler, **kwargs: Any) -> str:
    quote = compiler.preparer.quote
    key = ", ".join(quote(column.name) for column in cast("Table", element.table).primary_key)
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in element.replaced)
    insert: str = compiler.visit_insert(element, **kwargs)  # type: ignore[no-untyped-call]  # SQLAlchemy's
    return f"{insert} ON CONFLICT ({key}) DO UPDATE SET {changes}"


def insertion(table: Table, *columns: str) -> Insert:
    """Insert a row, each column from the parameter of its name."""
    # inline: nobody reads a generated key, so PostgreSQL need not return it.
    return Insert(table).values(_parameters(columns)).inline()


def upsert(table: Table, *columns: str) -> Insert:
    """Insert a row, or replace these columns of the one with the same primary key.

    ``created_at`` is kept where there is an ``updated_at`` to tell the change.
    """
    kept = set(table.primary_key.columns.keys())
    if "updated_at" in columns:
        kept.add("created_at")
    statement = _Upsert(table).values(_parameters(columns)).inline()
    statement.replaced = tuple(name for name in columns if name not in kept)
    return statement


def _parameters(columns: tuple[str, ...]) -> dict[str, Any]:
    return {name: bindparam(name) for name in columns}
