r"""Check every value by the type of its column before it is sent. No I/O.

SQLite stores a value of any type in any column, and PostgreSQL and its driver convert some of
them silently: a fraction in a BIGINT is rounded, bytes in a TEXT become the text ``\x6162``. So a
value is converted here, or it is a :class:`Problem`.

What comes out is *canonical*: the same Python value for both engines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, Protocol

from nextcloud_mcp_server.crypto.binding import stored_id
from nextcloud_mcp_server.errors import printable, shortened
from nextcloud_mcp_server.secret import Secret, SecretList, SecretTuple

_NULL: Final = type(None)

#: Whole numbers up to this one are exact in a float.
_EXACT: Final = 2.0**53

#: What releases and tools have stored in a TIMESTAMP of SQLite. Without an offset it is UTC.
_MOMENT: Final = re.compile(
    r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d(:?\d\d)?)?", re.ASCII
)

#: The ids of sessions, which are credentials: a message has their hash.
_SECRET_KEYS: Final = frozenset({"session_id"})


class UnfitError(Exception):
    """A value that its column cannot have; the message is the reason, without the value."""


class Problem(NamedTuple):
    """A value that cannot be carried over: where it is, and why; never the value itself."""

    table: str
    row: str
    column: str
    reason: str


class Kind(Protocol):
    """The type of a column."""

    def convert(self, value: Any) -> Any:
        """Return the canonical form of a value that is not NULL.

        Raises:
            UnfitError: there is none.
        """

    def convert_all(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return the canonical form of a column with NULLs; None if each has to be examined.

        Nearly every column consists of the usual type alone, which is seen in a fraction of the
        time.
        """


class Text:
    """Text in UTF-8."""

    def convert(self, value: Any) -> Any:
        """Return text without a null character, which PostgreSQL cannot store."""
        if not isinstance(value, str):
            raise UnfitError(f"is {_type(value)}, not text")
        if "\0" in value:
            raise UnfitError("contains a null character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UnfitError("is not valid UTF-8") from None
        return value

    def convert_all(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return the values if they, joined, are valid."""
        if not _only(values, str):
            return None
        try:
            self.convert(Secret("".join(filter(None, values))))
        except UnfitError:
            return None
        return values


class Ciphertext:
    """Encrypted bytes."""

    def convert(self, value: Any) -> Any:
        """Return bytes; those of a text, as a restored dump has it."""
        if isinstance(value, str):
            # An invalid byte is a surrogate here.
            return value.encode("utf-8", "surrogateescape")
        if not isinstance(value, bytes):
            raise UnfitError(f"is {_type(value)}, not encrypted bytes")
        return value

    def convert_all(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return the values if they are bytes."""
        return values if _only(values, bytes) else None


class Whole:
    """A whole number of 32 or 64 bits."""

    def __init__(self, bits: int) -> None:
        self._least = -(1 << bits - 1)
        self._most = (1 << bits - 1) - 1

    def convert(self, value: Any) -> Any:
        """Return an int; also of a float without a fraction."""
        # A column that an early release declared as REAL makes a float of each number.
        if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
            value = int(value)
        if type(value) is not int:
            raise UnfitError(f"is {_type(value)}, not a whole number")
        if not self._least <= value <= self._most:
            raise UnfitError(f"is not between {self._least} and {self._most}")
        return value

    def convert_all(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return the values if the least and the greatest are in the range."""
        if not _only(values, int):
            return None
        given = [value for value in values if value is not None]
        if given and (min(given) < self._least or max(given) > self._most):
            return None
        return values


class Boolean:
    """True or False, which SQLite stores as 1 or 0."""

    def convert(self, value: Any) -> Any:
        """Return a bool."""
        if type(value) not in {bool, int} or value not in {0, 1}:
            raise UnfitError("is neither 0 nor 1")
        return bool(value)

    def convert_all(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return None: such a column is rare."""


class Moment:
    """A time in UTC."""

    def convert(self, value: Any) -> Any:
        """Return a datetime in UTC, without the offset."""
        if not isinstance(value, str):
            raise UnfitError(f"is {_type(value)}, not a time as in 2026-01-31 12:00:00")
        if not _MOMENT.fullmatch(value):
            raise UnfitError("is not a time as in 2026-01-31 12:00:00")
        try:
            found = datetime.fromisoformat(value)
            return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
        except (ValueError, OverflowError):
            raise UnfitError("is not a time that exists") from None

    def convert_all(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return None: each is parsed."""


class Real:
    """A number with a fraction."""

    def convert(self, value: Any) -> Any:
        """Return a finite float."""
        if type(value) is int and abs(value) <= _EXACT:
            value = float(value)
        if not isinstance(value, float) or not math.isfinite(value):
            raise UnfitError(f"is {_type(value)}, not a finite number")
        return value

    def convert_all(self, values: Sequence[Any]) -> Sequence[Any] | None:
        """Return None: such a column is rare."""


class Column(NamedTuple):
    """One column that is copied.

    Attributes:
        name: its name.
        kind: its type.
        required: whether it must have a value.
    """

    name: str
    kind: Kind
    required: bool = False


class Part(NamedTuple):
    """One table that is copied.

    Attributes:
        table: its name.
        columns: those that are copied.
        key: the positions of the columns of the primary key.
        unique: the positions of other columns whose values must differ.
    """

    table: str
    columns: tuple[Column, ...]
    key: tuple[int, ...]
    unique: tuple[int, ...] = ()

    def row(self, values: Sequence[Any]) -> str:
        """Return the primary key of a row, for a message."""
        return ", ".join(_named(self.columns[at].name, values[at]) for at in self.key)

    def convert(
        self, rows: Sequence[tuple[Any, ...]], problems: list[Problem]
    ) -> Sequence[tuple[Any, ...]]:
        """Return the rows in their canonical form; add to ``problems`` what has none.

        Rows with a problem have any value in its place.
        """
        columns, same = SecretList(), True
        for at, values in enumerate(map(SecretTuple, zip(*rows, strict=True))):
            column, done = self.columns[at], None
            if not (column.required and None in values):
                done = column.kind.convert_all(values)
            same = same and done is values
            columns.append(self._each(at, rows, problems) if done is None else done)
        return rows if same else list(map(SecretTuple, zip(*columns, strict=True)))

    def _each(self, at: int, rows: Sequence[Sequence[Any]], problems: list[Problem]) -> list[Any]:
        column, found = self.columns[at], SecretList()
        for row in rows:
            value = row[at]
            try:
                if value is not None:
                    value = column.kind.convert(value)
                elif column.required:
                    raise UnfitError("is NULL")
            except UnfitError as error:
                problems.append(Problem(self.table, self.row(row), column.name, str(error)))
            found.append(value)
        return found


def _only(values: Sequence[Any], kind: type) -> bool:
    return set(map(type, values)) <= {kind, _NULL}


def _type(value: object) -> str:
    names = {str: "text", bytes: "bytes", int: "a whole number", float: "a floating-point number"}
    return names.get(type(value), type(value).__name__)


def _named(column: str, value: object) -> str:
    if value is None:
        return f"{column} NULL"
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if column in _SECRET_KEYS:
        return f"{column} {printable(stored_id(text))}"
    return f"{column} {printable(shortened(text))}"
