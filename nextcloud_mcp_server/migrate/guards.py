"""The operations of a migration, with types and descriptions that an editor can follow.

``alembic/guards.py`` does the work: ``env.py`` passes it to :func:`using` while the revisions run.
It belongs to that call alone: another thread, with a migration of its own, never reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server.errors import TokenStorageError

if TYPE_CHECKING:
    from sqlalchemy import Column, Constraint

_current: Final[ContextVar[Any]] = ContextVar("guards", default=None)


@contextmanager
def using(operations: Any) -> Iterator[None]:
    """Make ``operations`` those of :class:`Guards` during the ``with`` block."""
    token = _current.set(operations)
    try:
        yield
    finally:
        _current.reset(token)


def _running() -> Any:
    operations = _current.get()
    if operations is None:
        raise TokenStorageError(
            "The guards were used outside of a migration of this program.",
            code="bad-input",
            remedy="Call them in upgrade() or downgrade() of a file in alembic/versions.",
        )
    return operations


class Guards:
    """Idempotent operations: they create only what is missing, and drop only what exists."""

    __slots__ = ()

    def create_table(self, name: str, *elements: Column[Any] | Constraint) -> None:
        """Create a table, or add the missing columns to an existing one."""
        _running().create_table(name, *elements)

    def add_column(self, table: str, column: Column[Any]) -> None:
        """Add a column unless it exists. It must be nullable or have a ``server_default``."""
        _running().add_column(table, column)

    def drop_column(self, table: str, column: str) -> None:
        """Drop a column if it exists, with the indexes that use it."""
        _running().drop_column(table, column)

    def create_index(self, name: str, table: str, columns: Sequence[str]) -> None:
        """Create an index unless it exists."""
        _running().create_index(name, table, columns)

    def drop_index(self, name: str, table: str) -> None:
        """Drop an index if it exists."""
        _running().drop_index(name, table)

    def drop_table(self, name: str) -> None:
        """Drop a table with its indexes if it exists."""
        _running().drop_table(name)

    def recreate_table(
        self,
        name: str,
        *elements: Column[Any] | Constraint,
        values: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
    ) -> None:
        """Change a table to the columns and constraints of ``elements``, unless it has them.

        Rows, indexes, triggers and views are kept.

        Args:
            elements: all its columns and constraints.
            values: SQL expressions over the old row, by column. Other columns keep their
                values; a new column gets its default.
            drop: the columns to drop, with the indexes that use them.
        """
        _running().recreate_table(name, *elements, values=values, drop=drop)

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
        """
        return int(_running().rewrite(table, function, columns=columns, where=where, size=size))
