"""The connection of a unit of work, on Python's own driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.dialects.sqlite import pysqlite

from nextcloud_mcp_server.backends.statements import compiler

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Executable, Select

    from nextcloud_mcp_server.backends.base import Row

#: Returns a statement compiled for SQLite.
prepared: Final = compiler(pysqlite.dialect())


class DriverConnection:
    """Executes statements on a connection of sqlite3."""

    __slots__ = ("_connection", "_writing", "has_triggers")

    def __init__(self, connection: sqlite3.Connection, *, has_triggers: bool = False) -> None:
        self.has_triggers = has_triggers
        self._connection = connection
        self._writing = connection.cursor()

    def all(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row]:
        """Execute and return every row."""
        known = prepared(statement)
        cursor = self._connection.execute(known.sql, known.parameters(parameters))
        return known.rows(cursor, cursor.fetchall())

    def first(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Row | None:
        """Execute and return the first row, or None."""
        known = prepared(statement)
        cursor = self._connection.execute(known.sql, known.parameters(parameters))
        found = known.rows(cursor, cursor.fetchmany(1))
        # A statement that is not read to its end would keep the read transaction open.
        cursor.close()
        return found[0] if found else None

    def change(
        self,
        statement: Executable,
        following: Select[Any],
        parameters: Mapping[str, Any] | None = None,
    ) -> Row | None:
        """Execute a write, then ``following``; None if no row was changed."""
        # RETURNING takes longer: SQLite puts its rows into a table first.
        return self.first(following) if self.run(statement, parameters) else None

    def run(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Execute a write and return the number of rows it changed."""
        known = prepared(statement)
        # One cursor for all writes: creating and closing one for each costs more.
        return self._writing.execute(known.sql, known.parameters(parameters)).rowcount
