"""The names of a database's tables and columns, asked for once and kept true.

Through an asynchronous driver every statement is several thread hops. So they are asked for
in one statement, and again only after DDL of somebody else: what the guards do themselves
is noted here. Offline (``--sql``) there is nobody to ask.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op

if TYPE_CHECKING:
    from collections.abc import Iterator

# A virtual table whose module is not loaded here raises when it is asked for its columns.
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
# Anywhere, since a comment may come first: looking once too often costs nothing.
_DDL = re.compile(r"\b(CREATE|ALTER|DROP)\b", re.IGNORECASE)


class Names:
    """What is there, by name.

    Args:
        connection: the connection that the migration runs on; None when offline.
    """

    def __init__(self, connection: sa.Connection | None) -> None:
        self._connection = connection
        self._seen: dict[str, set[str]] | None = None
        self._ours = False
        if connection is not None:
            sa.event.listen(connection, "after_cursor_execute", self._notice)

    def close(self) -> None:
        """Stop watching the connection."""
        if self._connection is not None:
            sa.event.remove(self._connection, "after_cursor_execute", self._notice)

    @property
    def is_sqlite(self) -> bool:
        """Whether the statements are for SQLite."""
        return op.get_context().dialect.name == "sqlite"

    def fold(self, name: str) -> str:
        """A name as it is compared with others."""
        # "Refresh_Tokens" is refresh_tokens for SQLite, another table for PostgreSQL.
        return name.lower() if self.is_sqlite else name

    def columns(self, table: str) -> set[str] | None:
        """The folded names of a table's columns; None for no such table, or nobody to ask."""
        if self._connection is None:
            return None
        if self._seen is None:
            question = _SQLITE_COLUMNS if self.is_sqlite else _POSTGRESQL_COLUMNS
            seen: dict[str, set[str]] = {}
            for owner, column in self._connection.exec_driver_sql(question):
                seen.setdefault(self.fold(owner), set()).add(self.fold(column))
            self._seen = seen
        return self._seen.get(self.fold(table))

    def indexes_using(self, table: str, column: str) -> list[str]:
        """The indexes that keep SQLite from dropping a column; PostgreSQL drops them itself."""
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
        """Note what the statement of the body adds: a table or columns."""
        with self.keeping():
            yield
        if self._seen is not None:
            known = self._seen.setdefault(self.fold(table), set())
            known.update(self.fold(column) for column in columns)

    @contextmanager
    def dropping(self, table: str) -> Iterator[None]:
        """Note that the statement of the body drops a table."""
        with self.keeping():
            yield
        if self._seen is not None:
            self._seen.pop(self.fold(table), None)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Do not look again because of the statement of the body."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def _notice(self, *event: Any) -> None:
        statement: str = event[2]
        if not self._ours and _DDL.search(statement):
            self._seen = None
