"""The connection of a unit of work, on psycopg."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from nextcloud_mcp_server.backends.statements import Statement, compiler

if TYPE_CHECKING:
    import psycopg
    from sqlalchemy import Delete, Executable, Insert, Select, Update

    from nextcloud_mcp_server.backends.base import Row

Prepare = Callable[["Executable"], Statement]


def statements(schema: str) -> Prepare:
    """Return a function that compiles statements on the tables of ``schema``, each once."""
    return compiler(PGDialect_psycopg(paramstyle="format"), schema)  # type: ignore[no-untyped-call]


@cache
def _returning(write: Executable, following: Select[Any]) -> Executable:
    # Each once: what is compiled is found by its statement.
    changing: Insert | Update | Delete = cast("Any", write)
    return changing.returning(*following.selected_columns)


class DriverConnection:
    """Executes statements on a connection of psycopg.

    Args:
        cursor: of the connection; one for all, because creating one for each costs more.
        prepared: returns a statement compiled for the schema.
        has_triggers: whether there are triggers on the tables.

    Attributes:
        executed: the number of statements.
    """

    __slots__ = ("_cursor", "_prepared", "executed", "has_triggers")

    def __init__(
        self, cursor: psycopg.Cursor[Any], prepared: Prepare, *, has_triggers: bool = False
    ) -> None:
        self._cursor = cursor
        self._prepared = prepared
        self.has_triggers = has_triggers
        self.executed = 0

    def all(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row]:
        """Execute and return every row."""
        known, cursor = self._prepared(statement), self._cursor
        self.executed += 1
        cursor.execute(known.sql, known.parameters(parameters))
        return known.rows(cursor, cursor.fetchall())

    def first(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Row | None:
        """Execute and return the first row, or None."""
        known, cursor = self._prepared(statement), self._cursor
        self.executed += 1
        cursor.execute(known.sql, known.parameters(parameters))
        found = known.rows(cursor, cursor.fetchmany(1))
        return found[0] if found else None

    def change(
        self,
        statement: Executable,
        following: Select[Any],
        parameters: Mapping[str, Any] | None = None,
    ) -> Row | None:
        """Execute a write that returns the row of ``following``; None if no row was changed."""
        return self.first(_returning(statement, following), parameters)

    def run(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Execute a write and return the number of rows it changed."""
        known = self._prepared(statement)
        self.executed += 1
        return self._cursor.execute(known.sql, known.parameters(parameters)).rowcount
