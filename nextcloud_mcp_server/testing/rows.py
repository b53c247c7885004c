"""Rows of the author of a test, and the step at which each is inserted."""

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
    present: bool = False
    inserted: bool = False


class WaitingRows:
    """Rows that are inserted as soon as their table has all of their columns.

    Args:
        connection: of the database, in no transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[_Row] = []

    def add(self, rows: Rows) -> None:
        """Add rows, and insert those that the tables can take now.

        Raises:
            AssertionError: the database refuses a row.
        """
        for table, members in rows.items():
            self._rows.extend(_Row(table.lower(), values) for values in members)
        self.insert()

    def insert(self) -> None:
        """Insert each row that is not present, if its table has all of its columns.

        Raises:
            AssertionError: the database refuses a row.
        """
        tables = read_structure(self._connection.execute).tables
        for row in self._rows:
            row.present = row.present and row.table in tables
            columns: Container[str] = tables[row.table].columns if row.table in tables else ()
            if not row.present and all(name.lower() in columns for name in row.values):
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
        row.present = row.inserted = True

    def require_inserted(self) -> None:
        """Raise AssertionError for the first row that no revision had a table for."""
        for row in self._rows:
            if not row.inserted:
                raise AssertionError(
                    f"no revision has a table {row.table} with the columns {', '.join(row.values)}"
                )
