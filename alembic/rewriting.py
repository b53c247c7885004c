"""Change values of a table in Python, page by page.

The pages follow the key (keyset pagination), so the memory does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic.util import CommandError

from nextcloud_mcp_server.secret import SecretDict, SecretTuple

#: Takes the values of a row by column; returns those that change, or None.
Change = Callable[[dict[str, Any]], Mapping[str, Any] | None]

_PRIMARY_KEY = """
    SELECT a.attname FROM pg_index i
    CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE i.indisprimary AND i.indrelid = to_regclass(quote_ident(%(table)s))
    ORDER BY k.place
"""
_ROWIDS = ("rowid", "_rowid_", "oid")


def rowid(table: str, columns: Collection[str]) -> list[sa.ColumnElement[Any]]:
    """Return the rowid of a table: a primary key of SQLite may contain NULL.

    Raises:
        CommandError: columns have all names of the rowid.
    """
    free = [name for name in _ROWIDS if name not in columns]
    if not free:
        raise CommandError(f"{table} has no usable rowid for rewrite.")
    return [sa.literal_column(free[0], sa.Integer())]


def primary_key(execute: Callable[..., Sequence[Any]], table: str) -> list[sa.ColumnElement[Any]]:
    """Return the primary key of a table of PostgreSQL.

    Raises:
        CommandError: the table has no primary key.
    """
    key: list[sa.ColumnElement[Any]] = [
        sa.column(name) for (name,) in execute(_PRIMARY_KEY, {"table": table})
    ]
    if not key:
        raise CommandError(f"{table} has no primary key for rewrite.")
    return key


class Rows(NamedTuple):
    """The rows to change, in pages of ``size`` that the key orders.

    ``where`` is the SQL condition for rows that are not changed yet.
    """

    connection: sa.Connection
    table: str
    key: Sequence[sa.ColumnElement[Any]]
    columns: Sequence[str]
    where: str
    size: int

    def rewrite(self, function: Change, progress: Callable[..., None]) -> int:
        """Do the same as :meth:`change`, and check that a second run would change nothing.

        Raises:
            CommandError: a changed row still matches ``where``, or as :meth:`change`.
        """
        total = self._count()
        changed = self.change(function, progress)
        if (left := self._count()) > total - changed:
            raise CommandError(
                f"{left - (total - changed)} of {changed} rewritten rows of {self.table} still "
                f"match {self.where}: a second run would rewrite them again."
            )
        return changed

    def change(self, function: Change, progress: Callable[..., None]) -> int:
        """Change the rows, and return how many were changed.

        Raises:
            CommandError: ``function`` returns a column that was not read.
        """
        total = self._count()
        done, changed = 0, 0
        for page in self._pages():
            new = [(row, made) for row in page if (made := self._changed(row, function))]
            if new:
                self._write(new)
            done += len(page)
            changed += len(new)
            progress(f"rewriting {self.table}", done, total, "rows")
        return changed

    @property
    def _target(self) -> sa.TableClause:
        return sa.table(self.table, *(sa.column(name) for name in self.columns))

    def _select(self, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
        # Not text(), which gives a colon and a percent sign a meaning.
        condition = sa.literal_column(f"({self.where})", sa.Boolean())
        return sa.select(*columns).select_from(self._target).where(condition)

    def _count(self) -> int:
        return int(self.connection.scalar(self._select(sa.func.count())) or 0)

    def _pages(self) -> Iterator[Sequence[Sequence[Any]]]:
        page = self._select(*self.key, *map(sa.column, self.columns))
        page = page.order_by(*self.key).limit(self.size)
        # Hidden, because an error is shown with the variables that it passes.
        rows = list(map(SecretTuple, self.connection.execute(page)))
        while rows:
            yield rows
            last = rows[-1][: len(self.key)]
            rows = list(map(SecretTuple, self.connection.execute(page.where(self._after(last)))))

    def _after(self, last: Sequence[Any]) -> sa.ColumnElement[bool]:
        if len(self.key) == 1:
            return self.key[0] > last[0]
        return sa.tuple_(*self.key) > sa.tuple_(*(sa.literal(value) for value in last))

    def _changed(self, row: Sequence[Any], function: Change) -> dict[str, Any] | None:
        old = SecretDict(zip(self.columns, row[len(self.key) :], strict=True))
        result = function(old.copy())
        if result is None:
            return None
        result = SecretDict(result)
        if unread := sorted(result.keys() - old.keys()):
            raise CommandError(f"{', '.join(unread)} of {self.table} is not in columns.")
        new = old | result
        return None if new == old else new

    def _write(self, new: list[tuple[Sequence[Any], dict[str, Any]]]) -> None:
        update = (
            sa.update(self._target)
            .where(*(k == sa.bindparam(f"key_{n}") for n, k in enumerate(self.key)))
            .values({name: sa.bindparam(f"new_{n}") for n, name in enumerate(self.columns)})
        )
        self.connection.execute(
            update,
            [
                {f"key_{n}": row[n] for n in range(len(self.key))}
                | {f"new_{n}": made[name] for n, name in enumerate(self.columns)}
                for row, made in new
            ],
        )
