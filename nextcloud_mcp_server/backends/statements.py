"""Statements of SQLAlchemy Core, compiled once and executed by the driver itself.

To execute a statement through SQLAlchemy takes several times as long as SQLite takes for
it, so what SQLAlchemy knows of it is asked once: the text, the order of its parameters, and
which values are converted on their way in and out.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy.sql.visitors import iterate

from nextcloud_mcp_server.schema.secrets import hiding
from nextcloud_mcp_server.secret import SecretList

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Dialect, Executable
    from sqlalchemy.sql.compiler import SQLCompiler

    from nextcloud_mcp_server.backends.base import Row

#: Converts one value on its way into or out of the database.
Convert = Callable[[Any], Any]

#: More than there are statements; statements built for one use displace each other.
_REMEMBERED: Final = 512


class Statement:
    """A statement as the driver takes it.

    Args:
        statement: built with SQLAlchemy Core; without parameters that expand to several.
        dialect: of the driver, with parameters by position.
        schema: the schema of its tables; empty if the connection decides.
    """

    __slots__ = ("_fixed", "_into", "_make", "_out_of", "_pick", "sql")

    def __init__(self, statement: Executable, dialect: Dialect, schema: str = "") -> None:
        options: dict[str, Any] = {"dialect": dialect}
        if schema:
            options |= {"schema_translate_map": {None: schema}, "render_schema_translate": True}
        compiled: SQLCompiler = cast("Any", statement).compile(**options)
        self.sql: Final = str(compiled)
        names = tuple(compiled.positiontup or ())
        self._pick: Final = _picker(names)
        binds = compiled.binds
        self._fixed: Final = {n: b.effective_value for n, b in binds.items() if not b.required}
        into = [binds[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names]
        self._into: Final = [(at, convert) for at, convert in enumerate(into) if convert]
        columns = getattr(statement, "selected_columns", ())
        out = [_converter(column, dialect) for column in columns]
        self._out_of: Final = [(at, convert) for at, convert in enumerate(out) if convert]
        self._make: Callable[[Sequence[Any]], Row] | None = None

    def parameters(self, given: Mapping[str, Any] | None) -> Sequence[Any]:
        """Return the values for the placeholders, in order.

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

    def rows(self, cursor: Any, fetched: Iterable[Sequence[Any]]) -> list[Row]:
        """Return rows with their names, each value converted by the type of its column.

        Secrets are hidden; ``fetched`` must be in no variable of the caller.
        """
        return list(map(self._row, repeat(cursor), fetched))

    def _row(self, cursor: Any, values: Sequence[Any]) -> Row:
        if self._out_of:
            values = converted = SecretList(values)
            for at, convert in self._out_of:
                if converted[at] is not None:
                    converted[at] = convert(converted[at])
        make = self._make
        if make is None:
            # A column whose name was changed to another case has it in the result, too.
            names = [column[0].lower() for column in cursor.description]
            # Two threads may both do this, with the same result.
            make = self._make = cast("Any", namedtuple("Row", names, rename=True))._make
        return make(values)


def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """Return a function that picks the values of ``names``, in order."""
    # itemgetter of one name returns no sequence.
    if len(names) > 1:
        return itemgetter(*names)
    return lambda known: [known[name] for name in names]


def _converter(column: ColumnElement[Any], dialect: Dialect) -> Convert | None:
    """Return what converts a value by the type of its column, and hides it if it is a secret."""
    convert: Convert | None = column.type.dialect_impl(dialect).result_processor(dialect, None)
    # Also the column in an expression.
    hide = next((found for part in iterate(column) if (found := _hiding(part))), None)
    if convert is None or hide is None:
        return hide or convert
    return lambda value: hide(convert(value))


def _hiding(part: Any) -> Convert | None:
    table = getattr(getattr(part, "table", None), "name", None)
    return hiding(table, part.name) if table else None


def compiler(dialect: Dialect, schema: str = "") -> Callable[[Executable], Statement]:
    """Return a function that compiles a statement for ``dialect``, each once."""

    @lru_cache(maxsize=_REMEMBERED)
    def prepared(statement: Executable) -> Statement:
        return Statement(statement, dialect, schema)

    return prepared
