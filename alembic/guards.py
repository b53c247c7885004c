"""What lets a revision meet a database that has its result already, or half of it.

Files in the field were upgraded by releases that could be killed between two statements,
carry narrow tables from before revisions existed, and write names in another case. So a
revision says what must be there, and these guards do what is missing.

``env.py`` puts one :class:`Guards` in the options of the migration context, so that a
revision reaches it without importing anything of the application::

    guards = op.get_context().opts["guards"]
    guards.create_table("app_passwords", sa.Column("user_id", sa.Text(), primary_key=True))

The structure is asked for once, in one statement, and again only after somebody else's
DDL: through an asynchronous driver every statement is several thread hops. Offline
(``--sql``) there is nobody to ask, and the plain statements are written, for a database
that is exactly at the starting revision.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


class Guards:
    """Makes what is missing and drops what is there.

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

    def create_table(self, name: str, *elements: sa.Column[Any] | sa.Constraint) -> None:
        """Create a table, or add the columns that the one in place lacks.

        Raises:
            CommandError: the table in place lacks a column that cannot be added, because
                it is required and has no default: it is not the table of this name that
                any release made.
        """
        columns = [element for element in elements if isinstance(element, sa.Column)]
        there = self._columns(name)
        if there is None:
            with self._noting(name, *(column.name for column in columns)):
                op.create_table(name, *elements, if_not_exists=True)
            return
        for column in columns:
            if self._fold(column.name) in there:
                continue
            if column.primary_key or not (column.nullable or column.server_default):
                raise CommandError(
                    f"The table {name} lacks the required column {column.name}: "
                    "it is another application's, or damaged."
                )
            self.add_column(name, column)

    def add_column(self, table: str, column: sa.Column[Any]) -> None:
        """Add a column, unless the table has it. SQLite knows no IF NOT EXISTS here."""
        if self._fold(column.name) in (self._columns(table) or ()):
            return
        with self._noting(table, column.name):
            op.add_column(table, column)

    def drop_column(self, table: str, column: str) -> None:
        """Drop a column, if the table has it, together with the indexes that use it.

        PostgreSQL drops those indexes by itself; SQLite refuses to drop the column while
        one is there, whoever made it. What else needs the column (a view, a trigger, a
        constraint) stops the downgrade on both.
        """
        offline = self._connection is None
        if not offline and self._fold(column) not in (self._columns(table) or ()):
            return
        for index in self._indexes_using(table, column):
            op.drop_index(index, table, if_exists=True)
        op.drop_column(table, column)

    def create_index(self, name: str, table: str, columns: Sequence[str]) -> None:
        """Create an index, unless it is there."""
        with self._noting(table):
            op.create_index(name, table, list(columns), if_not_exists=True)

    def drop_index(self, name: str, table: str) -> None:
        """Drop an index, if it is there."""
        with self._quietly():
            op.drop_index(name, table, if_exists=True)

    def drop_table(self, name: str) -> None:
        """Drop a table with its indexes, if it is there."""
        with self._quietly():
            op.drop_table(name, if_exists=True)
        if self._seen is not None:
            self._seen.pop(self._fold(name), None)

    def _columns(self, table: str) -> set[str] | None:
        """The names of a table's columns; None for no such table, or nobody to ask."""
        if self._connection is None:
            return None
        if self._seen is None:
            question = _SQLITE_COLUMNS if self._is_sqlite else _POSTGRESQL_COLUMNS
            seen: dict[str, set[str]] = {}
            for owner, column in self._connection.exec_driver_sql(question):
                seen.setdefault(self._fold(owner), set()).add(self._fold(column))
            self._seen = seen
        return self._seen.get(self._fold(table))

    def _indexes_using(self, table: str, column: str) -> list[str]:
        if self._connection is None or not self._is_sqlite:
            return []
        word = re.compile(rf"\b{re.escape(column)}\b", re.IGNORECASE)
        return [
            name
            for owner, name, sql in self._connection.exec_driver_sql(_SQLITE_INDEXES)
            if self._fold(owner) == self._fold(table) and word.search(sql.partition("(")[2])
        ]

    @property
    def _is_sqlite(self) -> bool:
        return op.get_context().dialect.name == "sqlite"

    def _fold(self, name: str) -> str:
        # "Refresh_Tokens" is refresh_tokens for SQLite, another table for PostgreSQL.
        return name.lower() if self._is_sqlite else name

    @contextmanager
    def _noting(self, table: str, *columns: str) -> Iterator[None]:
        """Keep what was seen true by hand while a statement adds a table or columns."""
        with self._quietly():
            yield
        if self._seen is not None:
            known = self._seen.setdefault(self._fold(table), set())
            known.update(self._fold(column) for column in columns)

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Do not look again because of one of our own statements."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def _notice(self, *event: Any) -> None:
        statement: str = event[2]
        if not self._ours and _DDL.search(statement):
            self._seen = None
