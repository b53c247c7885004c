"""Change values of a table in Python, some rows at a time, in the migration's transaction.

The pages follow the key (keyset pagination: no OFFSET, and every row is met once), so the
memory that it takes does not grow with the table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic.util import CommandError

#: Gets the values of a row by column, and answers those that change, or None.
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
    """What tells a row of SQLite from another: its key may hold NULL in files of old releases.

    Raises:
        CommandError: columns hide the rowid under all of its names.
    """
    free = [name for name in _ROWIDS if name not in columns]
    if not free:
        raise CommandError(f"{table} has no rowid to go by.")
    return [sa.literal_column(free[0], sa.Integer())]


def primary_key(
    ask: Callable[..., Sequence[Sequence[Any]]], table: str
) -> list[sa.ColumnElement[Any]]:
    """What tells a row of PostgreSQL from another.

    Raises:
        CommandError: the table has no primary key.
    """
    key: list[sa.ColumnElement[Any]] = [
        sa.column(name) for (name,) in ask(_PRIMARY_KEY, {"table": table})
    ]
    if not key:
        raise CommandError(f"{table} has no primary key to go by.")
    return key


class Rows(NamedTuple):
    """The rows to change.

    Attributes:
        connection: where the migration runs.
        table: their table.
        key: what a row is told by, and the pages are in the order of.
        columns: the columns that are read, and may be changed.
        where: SQL that is true of the rows that are still to be changed.
        size: the rows of a page.
    """

    connection: sa.Connection
    table: str
    key: Sequence[sa.ColumnElement[Any]]
    columns: Sequence[str]
    where: str
    size: int

    def rewrite(self, function: Change, say: Callable[..., None]) -> int:
        """Change what ``function`` says, and answer how many rows were changed.

        Raises:
            CommandError: a changed row still is one to be changed, so that a second run would
                change it again; or ``function`` answers a column that was not read.
        """
        total = self._count()
        done, changed = 0, 0
        for page in self._pages():
            new = [(row, made) for row in page if (made := self._changed(row, function))]
            if new:
                self._write(new)
            done += len(page)
            changed += len(new)
            say(f"rewriting {self.table}", done, total, "rows")
        if (left := self._count()) > total - changed:
            raise CommandError(
                f"{left - (total - changed)} of {changed} rewritten rows of {self.table} still are "
                f"where {self.where}: a second run would rewrite them again."
            )
        return changed

    @property
    def _target(self) -> sa.TableClause:
        return sa.table(self.table, *(sa.column(name) for name in self.columns))

    @property
    def _condition(self) -> sa.ColumnElement[bool]:
        # No text(): a colon or a percent sign in it is what it is.
        return sa.literal_column(f"({self.where})", sa.Boolean())

    def _count(self) -> int:
        counting = sa.select(sa.func.count()).select_from(self._target).where(self._condition)
        return int(self.connection.scalar(counting) or 0)

    def _pages(self) -> Iterator[Sequence[Sequence[Any]]]:
        target = self._target
        page = (
            sa.select(*self.key, *target.columns)
            .select_from(target)
            .where(self._condition)
            .order_by(*self.key)
            .limit(self.size)
        )
        rows: Sequence[Sequence[Any]] = self.connection.execute(page).all()
        while rows:
            yield rows
            last = rows[-1][: len(self.key)]
            rows = self.connection.execute(page.where(self._after(last))).all()

    def _after(self, last: Sequence[Any]) -> sa.ColumnElement[bool]:
        if len(self.key) == 1:
            return self.key[0] > last[0]
        return sa.tuple_(*self.key) > sa.tuple_(*(sa.literal(value) for value in last))

    def _changed(self, row: Sequence[Any], function: Change) -> dict[str, Any] | None:
        old = dict(zip(self.columns, row[len(self.key) :], strict=True))
        answer = function(dict(old))
        if answer is None:
            return None
        if unread := sorted(answer.keys() - old.keys()):
            raise CommandError(f"{', '.join(unread)} of {self.table}: name it in columns as well.")
        new = old | dict(answer)
        return None if new == old else new

    def _write(self, new: list[tuple[Sequence[Any], dict[str, Any]]]) -> None:
        target = self._target
        update = (
            sa.update(target)
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
