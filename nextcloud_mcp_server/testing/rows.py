"""The rows that an author brings to a walk, and when they join it."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nextcloud_mcp_server.backends.sqlite.catalog import quoted, read_structure

#: Rows by table, each a dict of columns.
Rows = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(slots=True)
class _Row:
    table: str
    values: Mapping[str, Any]
    there: bool = False
    joined: bool = False


class Joining:
    """Rows that wait for a revision that has their table with all of their columns.

    Args:
        connection: of the database, in no transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[_Row] = []

    def add(self, rows: Rows) -> None:
        """Bring more rows."""
        for table, members in rows.items():
            self._rows.extend(_Row(table.lower(), values) for values in members)

    def join(self) -> None:
        """Insert every row that has its place now and is not there yet.

        Raises:
            AssertionError: the database does not take it.
        """
        tables = read_structure(self._connection.execute).tables
        for row in self._rows:
            row.there = row.there and row.table in tables
            columns: Container[str] = tables[row.table].columns if row.table in tables else ()
            if not row.there and all(name.lower() in columns for name in row.values):
                self._insert(row)

    def _insert(self, row: _Row) -> None:
        names = ", ".join(map(quoted, row.values))
        marks = ", ".join("?" * len(row.values))
        statement = f"INSERT INTO {quoted(row.table)} ({names}) VALUES ({marks})"  # noqa: S608
        try:
            self._connection.execute(statement, tuple(row.values.values()))
        except sqlite3.Error as error:
            raise AssertionError(
                f"{row.table} does not take {dict(row.values)}: {error}"
            ) from error
        row.there = row.joined = True

    def require_all(self) -> None:
        """Insist that every row has had its place.

        Raises:
            AssertionError: for the first that had none.
        """
        for row in self._rows:
            if not row.joined:
                raise AssertionError(
                    f"no revision has a table {row.table} with the columns {', '.join(row.values)}"
                )
