"""Statements of SQLAlchemy Core, compiled once and executed by Python's own driver.

To execute a statement through SQLAlchemy takes several times as long as SQLite takes for
it, so what SQLAlchemy knows of it is asked once: the text, the order of its parameters, and
which values are converted on their way in and out.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy.dialects.sqlite import pysqlite

from nextcloud_mcp_server.backends.sqlite.catalog import folded

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import Executable
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine

    from nextcloud_mcp_server.backends.base import Row

#: Converts one value on its way into or out of the database.
Convert = Callable[[Any], Any]

#: More than there are statements; statements built for one use displace each other.
_REMEMBERED: Final = 512

_DIALECT: Final = pysqlite.dialect()


class Statement:
    """A statement as the driver takes it.

    Args:
        statement: built with SQLAlchemy Core; without parameters that expand to several.
    """

    __slots__ = ("_fixed", "_into", "_make", "_out_of", "_pick", "sql")

    def __init__(self, statement: Executable) -> None:
        compiled: SQLCompiler = cast("Any", statement).compile(dialect=_DIALECT)
        self.sql: Final = str(compiled)
        names = tuple(compiled.positiontup or ())
        self._pick: Final = _picker(names)
        binds = compiled.binds
        self._fixed: Final = {n: b.effective_value for n, b in binds.items() if not b.required}
        into = [_own(binds[name].type).bind_processor(_DIALECT) for name in names]
        self._into: Final = [(at, convert) for at, convert in enumerate(into) if convert]
        columns = getattr(statement, "selected_columns", ())
        out = [_own(column.type).result_processor(_DIALECT, None) for column in columns]
        self._out_of: Final = [(at, convert) for at, convert in enumerate(out) if convert]
        self._make: Callable[[Sequence[Any]], Row] | None = None

    def parameters(self, given: Mapping[str, Any] | None) -> Sequence[Any]:
        """Return the values for the question marks, in order.

        Raises:
            KeyError: a parameter is missing.
        """
        known = {**self._fixed, **(given or {})} if self._fixed else given or {}
        if not self._into:
            return self._pick(known)
        values = list(self._pick(known))
        for at, convert in self._into:
            values[at] = convert(values[at])
        return values

    def row(self, cursor: sqlite3.Cursor, values: Sequence[Any]) -> Row:
        """Return a row with its names, each value converted by the type of its column."""
        if self._out_of:
            converted = list(values)
            for at, convert in self._out_of:
                converted[at] = convert(converted[at])
            values = converted
        make = self._make
        if make is None:
            # A column whose name was changed to another case has it in the result, too.
            names = [folded(column[0]) for column in cursor.description]
            # Two threads may both do this, with the same result.
            make = self._make = cast("Any", namedtuple("Row", names, rename=True))._make
        return make(values)


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """Return a function that picks the values of ``names``, in order."""
    # itemgetter of one name returns no sequence.
    if len(names) > 1:
        return itemgetter(*names)
    return lambda known: [known[name] for name in names]


@lru_cache(maxsize=_REMEMBERED)
def prepared(statement: Executable) -> Statement:
    """Return ``statement`` compiled; compile it once."""
    return Statement(statement)


def _own(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return kind.dialect_impl(_DIALECT)


class DriverConnection:
    """The connection of a unit, on Python's own driver."""

    __slots__ = ("_connection", "_writing", "has_triggers")

    def __init__(self, connection: sqlite3.Connection, *, has_triggers: bool = False) -> None:
        self.has_triggers = has_triggers
        self._connection = connection
        self._writing = connection.cursor()

    def all(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row]:
        """Execute and return every row."""
        known = prepared(statement)
        cursor = self._connection.execute(known.sql, known.parameters(parameters))
        return [known.row(cursor, values) for values in cursor.fetchall()]

    def first(
        self, statement: Executable, parameters: Mapping[str, Any] | None = None
    ) -> Row | None:
        """Execute and return the first row, or None."""
        known = prepared(statement)
        cursor = self._connection.execute(known.sql, known.parameters(parameters))
        values = cursor.fetchone()
        row = None if values is None else known.row(cursor, values)
        # A statement that is not read to its end would keep the read transaction open.
        cursor.close()
        return row

    def run(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> int:
        """Execute a write and return the number of rows it changed."""
        known = prepared(statement)
        # One cursor for all writes: creating and closing one for each costs more.
        return self._writing.execute(known.sql, known.parameters(parameters)).rowcount
