"""Read and cache the names of tables and columns.

With an asynchronous driver every query costs several thread switches. So all names are read in
one query, and again only after DDL that does not come from the guards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op

# Not virtual tables: listing the columns fails if their module is not loaded.
_SQLITE_COLUMNS = """
    SELECT m.name, x.name FROM sqlite_master AS m
    JOIN pragma_table_xinfo(CASE WHEN m.sql NOT LIKE 'CREATE VIRTUAL %' THEN m.name END) AS x
    WHERE m.type = 'table'
"""
_POSTGRESQL_COLUMNS = """
    SELECT table_name, column_name FROM information_schema.columns
    WHERE table_schema = current_schema()
"""
_SQLITE_INDEXES = """
    SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL
"""
# Anywhere, because a comment may come first. A false match only costs one more query.
_DDL = re.compile(r"\b(CREATE|ALTER|DROP)\b", re.IGNORECASE)


class Names:
    """The names of tables and columns of the database; ``connection`` is None if offline."""

    def __init__(self, connection: sa.Connection | None) -> None:
        self._connection = connection
        self._cache: dict[str, set[str]] | None = None
        self._ours = False
        if connection is not None:
            sa.event.listen(connection, "after_cursor_execute", self._notice)

    def close(self) -> None:
        """Stop watching the connection."""
        if self._connection is not None:
            sa.event.remove(self._connection, "after_cursor_execute", self._notice)

    @property
    def is_sqlite(self) -> bool:
        """Whether the engine is SQLite."""
        return op.get_context().dialect.name == "sqlite"

    def fold(self, name: str) -> str:
        """Return a name as the engine compares it."""
        # "Refresh_Tokens" is the table refresh_tokens on SQLite, but not on PostgreSQL.
        return name.lower() if self.is_sqlite else name

    def columns(self, table: str) -> set[str] | None:
        """Return the folded names of a table's columns; None if there is no table, or offline."""
        if self._connection is None:
            return None
        if self._cache is None:
            query = _SQLITE_COLUMNS if self.is_sqlite else _POSTGRESQL_COLUMNS
            names: dict[str, set[str]] = {}
            for owner, column in self._connection.exec_driver_sql(query):
                names.setdefault(self.fold(owner), set()).add(self.fold(column))
            self._cache = names
        return self._cache.get(self.fold(table))

    def indexes_using(self, table: str, column: str) -> list[str]:
        """Return the indexes to drop before a column; PostgreSQL drops them itself."""
        if self._connection is None or not self.is_sqlite:
            return []
        word = re.compile(rf"\b{re.escape(column)}\b", re.IGNORECASE)
        return [
            name
            for owner, name, sql in self._connection.exec_driver_sql(_SQLITE_INDEXES)
            if self.fold(owner) == self.fold(table) and word.search(sql.partition("(")[2])
        ]

    @contextmanager
    def adding(self, table: str, *columns: str) -> Iterator[None]:
        """Add a table or columns to the cache after the body."""
        with self.keeping():
            yield
        if self._cache is not None:
            known = self._cache.setdefault(self.fold(table), set())
            known.update(self.fold(column) for column in columns)

    @contextmanager
    def dropping(self, table: str) -> Iterator[None]:
        """Remove a table from the cache after the body."""
        with self.keeping():
            yield
        if self._cache is not None:
            self._cache.pop(self.fold(table), None)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the cache although the body executes DDL."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def _notice(self, *event: Any) -> None:
        statement: str = event[2]
        if not self._ours and _DDL.search(statement):
            self._cache = None
