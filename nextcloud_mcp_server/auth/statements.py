"""Kinds of statements that several concerns use, built once at import."""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Insert,
    LargeBinary,
    Text,
    and_,
    bindparam,
    case,
    func,
    literal,
    select,
    type_coerce,
)
from sqlalchemy import (
    cast as cast_to,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ClauseElement
from sqlalchemy.sql.functions import FunctionElement

from nextcloud_mcp_server.crypto.key import PREFIX
from nextcloud_mcp_server.schema.secrets import HASH_MARK, HASHED
from nextcloud_mcp_server.schema.tables import Ciphertext

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Column, Delete, Label, Select, Table, Update
    from sqlalchemy.sql.compiler import SQLCompiler


#: The most rows that one transaction deletes because they are expired: it takes some
#: milliseconds, in which nobody else can write.
AT_ONCE: Final = 500


#: The parameters for how the texts of a key begin, and the length of that: ``v2.`` and 11 digits.
_PREFIXES: Final = ("bits_0", "bits_1", "bits_2", "bits_3")
_PREFIX: Final = 14


class _Replacing(ClauseElement):
    """``ON CONFLICT (key) DO UPDATE``, the same on SQLite and PostgreSQL."""

    inherit_cache = False

    def __init__(self, key: tuple[str, ...], replaced: tuple[str, ...]) -> None:
        self.key = key
        self.replaced = replaced


@compiles(_Replacing)
def _compile(element: _Replacing, compiler: SQLCompiler, **_: Any) -> str:
    quote = compiler.preparer.quote
    key = ", ".join(map(quote, element.key))
    changes = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in element.replaced)
    return f"ON CONFLICT ({key}) DO UPDATE SET {changes}"


class Upsert(Insert):
    """An insertion that replaces columns of the row with the same primary key."""

    inherit_cache = False

    def replacing(self, names: tuple[str, ...]) -> Self:
        """Add the clause; it comes before RETURNING."""
        key = tuple(column.name for column in cast("Table", self.table).primary_key)
        self._post_values_clause = _Replacing(key, names)
        return self


class _InRow(FunctionElement[str]):
    """A column read from the row. SQLite would read it from the index that led to the row."""

    inherit_cache = True
    type = Text()


@compiles(_InRow)
def _compile_plain(element: _InRow, compiler: SQLCompiler, **kwargs: Any) -> str:
    return compiler.process(element.clauses, **kwargs)


@compiles(_InRow, "sqlite")
def _compile_by_rowid(element: _InRow, compiler: SQLCompiler, **_: Any) -> str:
    [column] = element.clauses
    quote = compiler.preparer.quote
    name, table = quote(column.name), quote(cast("Column[str]", column).table.name)
    return f"(SELECT own.{name} FROM {table} AS own WHERE own.rowid = {table}.rowid)"  # noqa: S608


class _ByEngine(FunctionElement[Any]):
    """One expression for PostgreSQL and another one for SQLite."""

    inherit_cache = True

    def __init__(self, usual: ColumnElement[Any], of_sqlite: ColumnElement[Any]) -> None:
        super().__init__(usual, of_sqlite)
        self.type = usual.type


@compiles(_ByEngine)
def _compile_usual(element: _ByEngine, compiler: SQLCompiler, **kwargs: Any) -> str:
    usual, _ = element.clauses
    return f"({compiler.process(usual, **kwargs)})"


@compiles(_ByEngine, "sqlite")
def _compile_of_sqlite(element: _ByEngine, compiler: SQLCompiler, **kwargs: Any) -> str:
    _, of_sqlite = element.clauses
    return f"({compiler.process(of_sqlite, **kwargs)})"


class _Locking(Executable, ClauseElement):
    """``LOCK TABLE``. On SQLite a transaction that writes is alone."""

    inherit_cache = False

    def __init__(self, table: Table, mode: str) -> None:
        self.table = table
        self.mode = mode


@compiles(_Locking)
def _compile_lock(element: _Locking, compiler: SQLCompiler, **_: Any) -> str:
    return f"LOCK TABLE {compiler.preparer.format_table(element.table)} IN {element.mode} MODE"


@compiles(_Locking, "sqlite")
def _compile_nothing(element: _Locking, compiler: SQLCompiler, **_: Any) -> str:
    return f"DELETE FROM {compiler.preparer.format_table(element.table)} WHERE 0"  # noqa: S608


def locking(table: Table, mode: str) -> Executable:
    """Lock a table until the end of the transaction, in a mode of PostgreSQL."""
    return _Locking(table, mode)


class NextId(ColumnElement[int]):
    """The id of the next row of a table that is numbered by the database."""

    inherit_cache = False
    type = BigInteger()

    def __init__(self, column: Column[Any]) -> None:
        self.column = column


@compiles(NextId)
def _compile_sequence(element: NextId, compiler: SQLCompiler, **kwargs: Any) -> str:
    table = compiler.preparer.format_table(element.column.table)
    # Quoted like this, a name may have a quotation mark. A restored table may have no sequence.
    sequence = f"pg_get_serial_sequence($name${table}$name$, '{element.column.name}')"
    return f"coalesce(nextval({sequence}), {_compile_following(element, compiler, **kwargs)})"


@compiles(NextId, "sqlite")
def _compile_following(element: NextId, compiler: SQLCompiler, **_: Any) -> str:
    name = compiler.preparer.quote(element.column.name)
    table = compiler.preparer.format_table(element.column.table)
    return f"(SELECT coalesce(max({name}), 0) + 1 FROM {table})"  # noqa: S608


def stored_as(column: Column[Any]) -> ColumnElement[bool]:
    """Whether a column holds the id of :func:`~.validation.stored_forms`, hashed or in plain."""
    return column.in_([bindparam("hashed"), bindparam("plain")])


def _begins(
    column: Column[Any],
    texts: Sequence[ColumnElement[str]],
    blobs: Sequence[ColumnElement[bytes]],
    length: int,
) -> ColumnElement[bool]:
    """Whether the first ``length`` characters of a value are one of ``texts``, or of ``blobs``.

    PostgreSQL holds what the column is for. SQLite holds a TEXT and a BLOB in any column, and
    never takes one for the other. A TEXT is not cast to a BLOB: that depends on the encoding of
    the file.
    """
    start = func.substr(column, 1, length)
    of_column = blobs if isinstance(column.type, Ciphertext) else texts
    return _ByEngine(start.in_(of_column), start.in_([*texts, *blobs]))


def is_v2(column: Column[Any]) -> ColumnElement[bool]:
    """Whether a value is encrypted in the second format."""
    return _begins_with(column, PREFIX.decode("ascii"))


def _begins_with(column: Column[Any], start: str) -> ColumnElement[bool]:
    blob = literal(start.encode("ascii"), LargeBinary)
    return _begins(column, [literal(start, Text)], [blob], len(start))


def has_key(column: Column[Any]) -> ColumnElement[bool]:
    """Whether a value begins as one of the four parameters that :func:`key_prefixes` returns."""
    texts = [bindparam(f"text_{name}", type_=Text) for name in _PREFIXES]
    blobs = [bindparam(name, type_=LargeBinary) for name in _PREFIXES]
    return _begins(column, texts, blobs, _PREFIX)


def ciphertext(column: Column[Any]) -> ColumnElement[Any]:
    """Select a stored secret as bytes, whatever the encoding of a TEXT is.

    A TEXT that is not ASCII is selected as its bytes: the driver would raise for some of them.
    """
    is_ascii = and_(column.op("NOT GLOB")("*[^ -~]*"), func.instr(column, func.char(0)) == 0)
    is_text = and_(func.typeof(column) == "text", is_ascii)
    chosen = case((is_text, column), else_=cast_to(column, LargeBinary))
    return _ByEngine(type_coerce(column, Ciphertext), type_coerce(chosen, Ciphertext))


def key_prefixes(key_id: str) -> dict[str, bytes | str]:
    """Return the parameters of :func:`has_key` for the key with this id.

    In base64 the id ends within a digit, of which two bits are of the nonce.
    """
    found: dict[str, bytes | str] = {}
    for bits, name in enumerate(_PREFIXES):
        start = base64.urlsafe_b64encode(bytes.fromhex(key_id) + bytes([bits << 6]))
        found[name] = (PREFIX + start)[:_PREFIX]
        found[f"text_{name}"] = (PREFIX + start)[:_PREFIX].decode("ascii")
    return found


def is_old(column: Column[Any]) -> ColumnElement[bool]:
    """Whether a value is there and stored as released versions have stored it."""
    if (column.table.name, column.name) in HASHED:
        return and_(column.is_not(None), ~_begins_with(column, HASH_MARK))
    return and_(column.is_not(None), ~is_v2(column))


def in_row(column: Column[Any]) -> Label[str]:
    """Select the key in the row itself as ``own``, for :func:`.values.check_row`.

    A flipped bit in an index can lead to the row of another user, and a Fernet token is not
    bound to its row.
    """
    return _InRow(column).label("own")


def rows_with(key: Column[Any], *columns: Column[Any]) -> Select[Any]:
    """Select ``columns`` of the rows that have a key.

    A text key of an early release may be NULL: such a row belongs to no user.
    """
    return select(*columns).where(key.is_not(None))


def expired(key: Column[Any], expires_at: Column[Any], *columns: Column[Any]) -> Select[Any]:
    """Select the :data:`AT_ONCE` rows that expired first, in the order of their key.

    The index of ``expires_at`` finds them. All writers of several rows lock them in the order
    of the key, so none waits for another in a circle.
    """
    is_expired = expires_at <= bindparam("now")
    first = rows_with(key, key).where(is_expired).order_by(expires_at).limit(AT_ONCE)
    # The condition again, for the row itself: a damaged index may lead to another one.
    return rows_with(key, *columns).where(key.in_(first.correlate(None)), is_expired).order_by(key)


def oldest(key: Column[Any], timestamp: Column[Any], most: int) -> Select[Any]:
    """Select the keys of at most ``most`` rows from before ``before``, the oldest.

    On PostgreSQL it skips the rows that another transaction deletes: no writer waits for one.
    """
    rows = select(key).where(timestamp < bindparam("before")).order_by(timestamp).limit(most)
    return rows.with_for_update(skip_locked=True).correlate(None)


def insertion(table: Table, *, without: tuple[str, ...] = ()) -> Insert:
    """Insert a row. Each column is the parameter of its name, except those in ``without``."""
    # inline: PostgreSQL need not return a generated key.
    return Insert(table).values(_parameters(table, without)).inline()


def upsert(table: Table, *, without: tuple[str, ...] = ()) -> Insert:
    """Insert a row, or replace the columns of the row with the same primary key.

    ``created_at`` is kept if there is also an ``updated_at``, and so are those in ``without``.
    """
    parameters = _parameters(table, without)
    kept = set(table.primary_key.columns.keys())
    if "updated_at" in parameters:
        kept.add("created_at")
    replaced = tuple(name for name in parameters if name not in kept)
    return Upsert(table).replacing(replaced).values(parameters).inline()


@lru_cache
def affected(statement: Delete | Update) -> Select[Any]:
    """Select the rows that ``statement`` changes."""
    matching = select(literal(1)).select_from(statement.table)
    return matching if statement.whereclause is None else matching.where(statement.whereclause)


@lru_cache
def kept(statement: Insert) -> Select[Any]:
    """Select the row that an insertion or an upsert has written, if it has its secrets."""
    table = cast("Table", statement.table)
    names = [c.name for c in table.columns if c.primary_key or c.name.startswith("encrypted_")]
    equal = (table.c[name].is_not_distinct_from(bindparam(name)) for name in names)
    return select(literal(1)).select_from(table).where(*equal)


def _parameters(table: Table, without: tuple[str, ...]) -> dict[str, Any]:
    names = (column.name for column in table.columns)
    return {name: bindparam(name) for name in names if name not in without}
