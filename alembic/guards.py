"""Idempotent operations for revisions.

A database may already contain the result of a revision, or a part of it: old releases could be
killed between two statements. So the guards create only what is missing, and drop only what
exists. Offline (``--sql``) they write plain statements for a database at the start revision.

A revision imports them, with their types, or takes them from the migration context, as the
revisions up to 101 do (``guards = op.get_context().opts["guards"]``)::

    from nextcloud_mcp_server.migrations import guards

    guards.create_table("app_passwords", sa.Column("user_id", sa.Text(), primary_key=True))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.operations.ops import CreateTableOp
from alembic.util import CommandError


class Guards:
    """Creates what is missing and drops what exists.

    Args:
        connection: of the migration; None if offline.
        load: loads a file of this folder by its name.
        progress: receives the phase of a long operation, the rows done, and all rows.
        reviewed: offline, write a comment for an operation that needs a connection.
        decryption: a ``Decryption``; None for one without keys.
    """

    def __init__(
        self,
        connection: sa.Connection | None,
        load: Callable[[str], ModuleType],
        *,
        progress: Callable[..., None] = lambda *_: None,
        reviewed: bool = False,
        decryption: Any = None,
    ) -> None:
        self._connection = connection
        self._load = load
        self._progress = progress
        self._reviewed = reviewed
        self._decryption = decryption
        self._names = load("names").Names(connection)

    def close(self) -> None:
        """Stop watching the connection."""
        self._names.close()

    def create_table(self, name: str, *elements: sa.Column[Any] | sa.Constraint) -> None:
        """Create a table, or add the missing columns to an existing one.

        Raises:
            CommandError: a missing column is required and has no default, so the table does
                not come from any release.
        """
        columns = [element for element in elements if isinstance(element, sa.Column)]
        existing = self._names.columns(name)
        if existing is None:
            with self._names.adding(name, *(column.name for column in columns)):
                op.create_table(name, *elements, if_not_exists=True)
            return
        for column in columns:
            if self._names.fold(column.name) in existing:
                continue
            if column.primary_key or not (column.nullable or column.server_default):
                raise CommandError(
                    f"The table {name} lacks the required column {column.name}: "
                    "it belongs to another application, or is damaged."
                )
            self.add_column(name, column)

    def add_column(self, table: str, column: sa.Column[Any]) -> None:
        """Add a column unless it exists.

        Raises:
            CommandError: SQLite cannot add such a column.
        """
        if self._names.fold(column.name) in (self._names.columns(table) or ()):
            return
        if column.primary_key or column.unique or column.foreign_keys:
            raise CommandError(
                f"SQLite cannot add a constraint to {table} with a column: use recreate_table for "
                f"{column.name}."
            )
        if not (column.nullable or column.server_default):
            raise CommandError(
                f"{column.name} is required, and has no default for existing rows of {table}: "
                "give it a server_default, or use recreate_table with values."
            )
        with self._names.adding(table, column.name):
            op.add_column(table, column)

    def drop_column(self, table: str, column: str) -> None:
        """Drop a column if it exists, with the indexes that use it.

        A view, a trigger or a constraint that needs the column is an error.
        """
        offline = self._connection is None
        if not offline and self._names.fold(column) not in (self._names.columns(table) or ()):
            return
        for index in self._names.indexes_using(table, column):
            op.drop_index(index, table, if_exists=True)
        op.drop_column(table, column)

    def create_index(self, name: str, table: str, columns: Sequence[str]) -> None:
        """Create an index unless it exists."""
        with self._names.keeping():
            op.create_index(name, table, list(columns), if_not_exists=True)

    def drop_index(self, name: str, table: str) -> None:
        """Drop an index if it exists."""
        with self._names.keeping():
            op.drop_index(name, table, if_exists=True)

    def drop_table(self, name: str) -> None:
        """Drop a table with its indexes if it exists."""
        with self._names.dropping(name):
            op.drop_table(name, if_exists=True)

    def recreate_table(
        self,
        name: str,
        *elements: sa.Column[Any] | sa.Constraint,
        values: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
    ) -> None:
        """Change a table to the columns and constraints of ``elements``, unless it has them.

        For changes that SQLite's ALTER TABLE does not support. On SQLite the table is recreated,
        on PostgreSQL it is altered. Rows, rowids, sequences, indexes, triggers and views are
        kept. A column that is neither in ``elements`` nor in ``drop`` is kept too, with the
        constraints that name it.

        Args:
            elements: all its columns and constraints, as for :meth:`create_table`.
            values: SQL expressions over the old row, by column. Other columns keep their
                values; a new column gets its default.
            drop: the columns to drop, with the indexes that use them.

        Raises:
            CommandError: the table does not exist, a row would have no value for a required
                column, a view or a trigger needs a dropped column, or there is no database.
        """
        names = [e.name for e in elements if isinstance(e, sa.Column)]
        if odd := [*(set(drop) & set(names)), *(set(values or ()) - set(names))]:
            raise CommandError(
                f"recreate_table: {', '.join(sorted(odd))} of {name} must be in elements if it is "
                "in values, and must not be if it is in drop."
            )
        filled = {self._names.fold(column): text for column, text in (values or {}).items()}
        going = frozenset(self._names.fold(column) for column in drop)
        if self._connection is None:
            self._not_offline(
                f"recreate_table: {name} is recreated from what the database contains, and --sql "
                "has no connection. Run this revision on the database, or write op.execute "
                "statements: CREATE TABLE, INSERT ... SELECT, DROP TABLE, ALTER TABLE RENAME."
            )
            return
        self._progress(f"recreating {name}")
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
        """Change values in Python, page by page, and return how many rows were changed.

        Args:
            function: takes the ``columns`` of a row as a dictionary, and returns the values
                that change, or None.
            columns: the columns that ``function`` reads or changes.
            where: SQL condition for the rows to change. It must not match a changed row.
            size: rows per page.

        Raises:
            CommandError: a changed row still matches ``where``, the table has no key, or there
                is no database.
        """
        if self._connection is None:
            self._not_offline(
                f"rewrite: the rows of {table} are rewritten in Python, and --sql has no "
                "connection. Run this revision on the database, or write an UPDATE."
            )
            return 0
        rows = self._rows(table, columns, where, size)
        return int(rows.rewrite(function, self._progress))

    def _rows(self, table: str, columns: Sequence[str], where: str, size: int = 1000) -> Any:
        rewriting = self._load("rewriting")
        if self._names.is_sqlite:
            key = rewriting.rowid(table, self._names.columns(table) or ())
        else:
            key = rewriting.primary_key(self._execute, table)
        return rewriting.Rows(self._connection, table, key, tuple(columns), where, size)

    def decrypt(self) -> None:
        """Take all secrets back to the format of released versions.

        Rows with the hash of an id are deleted. What is stored as released versions do is kept,
        also if no key opens it. For revision 103 alone.

        Raises:
            CommandError: there is no database.
            TokenStorageError: as ``Decryption.require_all``.
        """
        if self._connection is None:
            self._not_offline(
                "decrypt: secrets are decrypted with a key, and --sql has neither a connection nor "
                "a key. Run this revision on the database."
            )
            return
        from nextcloud_mcp_server.backends.keys import (  # noqa: PLC0415 - as it is migrated
            RegisteredKey,
            registered_keys,
        )

        if self._decryption is None:
            from nextcloud_mcp_server.migrate.decryption import Decryption  # noqa: PLC0415

            self._decryption = Decryption()
        decryption = self._decryption
        has_keys = set(RegisteredKey._fields) <= (self._names.columns("keys") or set())
        known = self._execute(registered_keys("keys")) if has_keys else ()
        decryption.begin([RegisteredKey.of(row) for row in known])
        for name, columns in decryption.hashed.items():
            if condition := self._begin(name, columns, "sha256:", length=50):
                query = f"FROM {name} WHERE {condition}"
                [(decryption.deleted[name],)] = self._execute(f"SELECT count(*) {query}")
                self._execute(f"DELETE {query}")
        for name, (secrets, bound) in decryption.secrets.items():
            if condition := self._begin(name, secrets, "v2."):
                there = self._names.columns(name) or ()
                columns = [one for one in (*secrets, *bound) if one in there]
                # A plain text that was encrypted can begin so itself.
                rows = self._rows(name, columns, condition)
                rows.change(partial(decryption.released, name), self._progress)
        decryption.require_all()

    def _begin(
        self, table: str, columns: Sequence[str], text: str, length: int | None = None
    ) -> str:
        """Return the condition for rows with a value that begins with ``text``; or empty.

        With ``length`` also for all of the value.
        """
        there = self._names.columns(table) or ()
        value = f"substr({{0}}, 1, {len(text)}) = '{text}'"
        if self._names.is_sqlite:
            # It compares no BLOB with a text, and in UTF-16 a CAST makes another text of a BLOB.
            blob = f"substr({{0}}, 1, {len(text)}) = x'{text.encode('ascii').hex()}'"
            value = f"CASE typeof({{0}}) WHEN 'blob' THEN {blob} ELSE {value} END"
        if length is not None:
            value = f"({value}) AND length({{0}}) = {length}"
        return " OR ".join(value.format(name) for name in columns if name in there)

    def _not_offline(self, reason: str) -> None:
        """Raise CommandError; for a review write a comment instead."""
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
