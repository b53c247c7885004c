"""Rows of a test, each inserted as soon as its table has all of its columns."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from nextcloud_mcp_server.backends.sqlite.catalog import read_structure
from nextcloud_mcp_server.schema.structure import quoted

#: Rows by table, each a dict of columns.
Rows = Mapping[str, Sequence[Mapping[str, Any]]]


class WaitingRows:
    """Rows that wait for their table; ``connection`` must be outside a transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: list[tuple[str, Mapping[str, Any]]] = []
        self._present: set[int] = set()
        self._waiting: set[int] = set()

    def add(self, rows: Rows) -> None:
        """Add rows, and insert those that have a table; AssertionError if it refuses one."""
        begin = len(self._rows)
        self._rows += [(table.lower(), row) for table, members in rows.items() for row in members]
        self._waiting.update(range(begin, len(self._rows)))
        self.insert()

    def insert(self) -> None:
        """Insert each row that has a table and is not in it; AssertionError if it refuses one."""
        tables = read_structure(self._connection.execute).tables
        for number, (table, row) in enumerate(self._rows):
            if table not in tables:
                self._present.discard(number)
            elif number not in self._present and {*map(str.lower, row)} <= {*tables[table].columns}:
                self._insert(table, row)
                self._present.add(number)
                self._waiting.discard(number)

    def _insert(self, table: str, row: Mapping[str, Any]) -> None:
        names, marks = ", ".join(map(quoted, row)), ", ".join("?" * len(row))
        statement = f"INSERT INTO {quoted(table)} ({names}) VALUES ({marks})"  # noqa: S608
        try:
            self._connection.execute(statement, tuple(row.values()))
        except sqlite3.Error as error:
            raise AssertionError(f"{table} does not take {dict(row)}: {error}") from error

    def require_inserted(self) -> None:
        """Raise AssertionError for the first row that no revision had a table for."""
        if self._waiting:
            table, row = self._rows[min(self._waiting)]
            columns = ", ".join(row)
            raise AssertionError(f"no revision has a table {table} with the columns {columns}")
