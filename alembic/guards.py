"""What lets a revision meet a database that has its result already, or half of it.

Files in the field were upgraded by releases that could be killed between two statements,
carry narrow tables from before revisions existed, and write names in another case. So a
revision says what must be there, and these guards do what is missing.

``env.py`` puts one :class:`Guards` in the options of the migration context, so that a
revision reaches it without importing anything of the application::

    guards = op.get_context().opts["guards"]
    guards.create_table("app_passwords", sa.Column("user_id", sa.Text(), primary_key=True))

What is there, ``names.py`` remembers. Offline (``--sql``) there is nobody to ask, and the
plain statements are written, for a database that is exactly at the starting revision.

What few revisions need is in files of its own beside this one, and loaded when it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import op
from alembic.operations.ops import CreateTableOp
from alembic.util import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType


class Guards:
    """Makes what is missing and drops what is there.

    Args:
        connection: the connection that the migration runs on; None when offline.
        load: loads a file beside this one by its name.
        say: is told the phase of long work, and how many of how many rows are done.
        reviewed: offline, whether what no SQL says is written as a comment, not refused.
    """

    def __init__(
        self,
        connection: sa.Connection | None,
        load: Callable[[str], ModuleType],
        *,
        say: Callable[..., None] = lambda *_: None,
        reviewed: bool = False,
    ) -> None:
        self._connection = connection
        self._load = load
        self._say = say
        self._reviewed = reviewed
        self._names = load("names").Names(connection)

    def close(self) -> None:
        """Stop watching the connection."""
        self._names.close()

    def create_table(self, name: str, *elements: sa.Column[Any] | sa.Constraint) -> None:
        """Create a table, or add the columns that the one in place lacks.

        Raises:
            CommandError: the table in place lacks a column that cannot be added, because
                it is required and has no default: it is not the table of this name that
                any release made.
        """
        columns = [element for element in elements if isinstance(element, sa.Column)]
        there = self._names.columns(name)
        if there is None:
            with self._names.adding(name, *(column.name for column in columns)):
                op.create_table(name, *elements, if_not_exists=True)
            return
        for column in columns:
            if self._names.fold(column.name) in there:
                continue
            if column.primary_key or not (column.nullable or column.server_default):
                raise CommandError(
                    f"The table {name} lacks the required column {column.name}: "
                    "it is another application's, or damaged."
                )
            self.add_column(name, column)

    def add_column(self, table: str, column: sa.Column[Any]) -> None:
        """Add a column, unless the table has it. SQLite knows no IF NOT EXISTS here.

        Raises:
            CommandError: SQLite could not add such a column, with rows or without.
        """
        if self._names.fold(column.name) in (self._names.columns(table) or ()):
            return
        if column.primary_key or column.unique or column.foreign_keys:
            raise CommandError(
                f"SQLite adds no constraint to {table} with a column: use recreate_table for "
                f"{column.name}."
            )
        if not (column.nullable or column.server_default):
            raise CommandError(
                f"{column.name} is required, and has no default for the rows that {table} has: "
                "give it a server_default, or use recreate_table with values."
            )
        with self._names.adding(table, column.name):
            op.add_column(table, column)

    def drop_column(self, table: str, column: str) -> None:
        """Drop a column, if the table has it, together with the indexes that use it.

        PostgreSQL drops those indexes by itself; SQLite refuses to drop the column while
        one is there, whoever made it. What else needs the column (a view, a trigger, a
        constraint) stops the downgrade on both.
        """
        offline = self._connection is None
        if not offline and self._names.fold(column) not in (self._names.columns(table) or ()):
            return
        for index in self._names.indexes_using(table, column):
            op.drop_index(index, table, if_exists=True)
        op.drop_column(table, column)

    def create_index(self, name: str, table: str, columns: Sequence[str]) -> None:
        """Create an index, unless it is there."""
        with self._names.keeping():
            op.create_index(name, table, list(columns), if_not_exists=True)

    def drop_index(self, name: str, table: str) -> None:
        """Drop an index, if it is there."""
        with self._names.keeping():
            op.drop_index(name, table, if_exists=True)

    def drop_table(self, name: str) -> None:
        """Drop a table with its indexes, if it is there."""
        with self._names.dropping(name):
            op.drop_table(name, if_exists=True)

    def recreate_table(
        self,
        name: str,
        *elements: sa.Column[Any] | sa.Constraint,
        values: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
    ) -> None:
        """Give a table the columns and constraints of ``elements``, unless it has them.

        For what SQLite cannot alter: the type of a column, a constraint, a column that one
        uses. On SQLite the table is made anew, on PostgreSQL it is altered. Its rows, rowids
        and counted keys are kept, and its indexes, triggers and views, whoever made them.
        A column that is neither in ``elements`` nor in ``drop`` is somebody's, and stays with
        the constraints that name it.

        Args:
            name: the table.
            elements: all that it is to have, as for :meth:`create_table`.
            values: SQL expressions over the old row that fill columns, by name; a column
                that is not named here keeps its value, a new one takes its default.
            drop: columns that go, with the indexes that use them.

        Raises:
            CommandError: there is no such table, or rows would lack a required value, or
                something needs a dropped column.
        """
        names = [e.name for e in elements if isinstance(e, sa.Column)]
        if odd := [*(set(drop) & set(names)), *(set(values or ()) - set(names))]:
            raise CommandError(f"recreate_table: {name} cannot have {', '.join(sorted(odd))} so.")
        filled = {self._names.fold(column): text for column, text in (values or {}).items()}
        going = frozenset(self._names.fold(column) for column in drop)
        if self._connection is None:
            self._not_offline(
                f"recreate_table: {name} is recreated from what the database contains, and --sql "
                "has no connection. Run this revision on the database, or write op.execute "
                "statements: CREATE TABLE, INSERT ... SELECT, DROP TABLE, ALTER TABLE RENAME."
            )
            return
        self._say(f"recreating {name}")
        table = CreateTableOp(name, list(elements)).to_table(op.get_context())
        if self._names.is_sqlite:
            self._load("recreation").recreate(self._execute, table, filled, going)
        else:
            self._load("alteration").alter(self._execute, table, filled, going)

    def rewrite(
        self,
        table: str,
        function: Callable[[dict[str, Any]], Mapping[str, Any] | None],
        *,
        columns: Sequence[str],
        where: str,
        size: int = 1000,
    ) -> int:
        """Change values in Python, ``size`` rows at a time; how many rows were changed.

        Args:
            table: the table.
            function: is called with the ``columns`` of each row, as a dictionary of what the
                driver reads, and answers the values that change, or None for no change.
            columns: the columns that ``function`` needs, or changes.
            where: SQL that is true of the rows that are still to be changed, and of no
                changed row: a second run finds nothing to do.
            size: the rows that are in memory at once.

        Raises:
            CommandError: a changed row still is one to be changed; or the table has no key to
                go by; or there is no database (``--sql``).
        """
        if self._connection is None:
            self._not_offline(
                f"rewrite: the rows of {table} are rewritten in Python, and --sql has no "
                "connection. Run this revision on the database, or write an UPDATE."
            )
            return 0
        rewriting = self._load("rewriting")
        if self._names.is_sqlite:
            key = rewriting.rowid(table, self._names.columns(table) or ())
        else:
            key = rewriting.primary_key(self._execute, table)
        rows = rewriting.Rows(self._connection, table, key, tuple(columns), where, size)
        return int(rows.rewrite(function, self._say))

    def _not_offline(self, reason: str) -> None:
        """Refuse to go on without a database; for a review write a comment instead."""
        if not self._reviewed:
            raise CommandError(reason)
        op.get_context().impl.static_output(f"-- {reason}")

    def _execute(self, statement: str, parameters: Any = None) -> Sequence[Any]:
        """Execute a statement as it is, and return its rows."""
        connection: Any = self._connection
        # A '%' is no placeholder for psycopg if no parameters are passed.
        options = {"no_parameters": True}
        result = connection.exec_driver_sql(statement, parameters, execution_options=options)
        return result.all() if result.returns_rows else ()
