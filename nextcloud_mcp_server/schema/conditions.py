"""SQL conditions for the form of a stored value, on each engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Boolean, ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from nextcloud_mcp_server.schema.forms import DIGITS, Form
from nextcloud_mcp_server.schema.tables import Ciphertext, keys

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler

#: How many characters a text of the second format begins with that tell its key: ``v2.`` and ten
#: digits, which are 60 of the 64 bits of the id. The check of a key is such a text.
_BEGINNING: Final = 13

#: The characters of every form, after one that stands for all others.
_CHARACTERS: Final = "*ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:"


class HasForm(FunctionElement[bool]):
    """Whether a value is of a form.

    Args:
        column: where it is, as BLOB or as TEXT.
        form: the form.
        registered: only if it also begins as a text of a registered key.
    """

    inherit_cache = False
    type = Boolean()

    def __init__(self, column: ColumnElement[Any], form: Form, *, registered: bool = False) -> None:
        super().__init__(column)
        self.form = form
        self.registered = registered


@compiles(HasForm)
def _compile(element: HasForm, compiler: SQLCompiler, **kwargs: Any) -> str:
    [column] = element.clauses
    text = compiler.process(column, **kwargs)
    if isinstance(column.type, Ciphertext):
        # Other bytes than those of ASCII become a backslash and digits.
        text = f"encode({text}, 'escape')"
    form = element.form
    conditions = [
        f"{text} ~ '^{form.pattern}$'",
        f"mod(length({text}) - {len(form.prefix)}, 4) <> 1",
    ]
    return _all(conditions, element, text, compiler)


@compiles(HasForm, "sqlite")
def _compile_glob(element: HasForm, compiler: SQLCompiler, **kwargs: Any) -> str:
    [column] = element.clauses
    form = element.form
    after = len(form.prefix)
    most = "" if form.most is None else f" AND length(value) <= {after + form.most}"
    conditions = [
        f"value GLOB '{form.prefix}*'",
        f"length(value) >= {after + form.least}{most}",
        f"(length(value) - {after}) % 4 <> 1",
        f"substr(value, {after + 1}) NOT GLOB '*[^{DIGITS}]*'",
        # A text ends there for the functions above.
        "instr(value, char(0)) = 0",
    ]
    text = _text(compiler.process(column, **kwargs))
    condition = _all(conditions, element, "value", compiler)
    return f"(SELECT {condition} FROM (SELECT {text} AS value))"  # noqa: S608 - our own names


def _text(stored: str) -> str:
    """Return the expression for a stored value as TEXT.

    In a file of UTF-16 a BLOB is cast to other characters than its bytes are, so each is looked
    up. That is slow, and rare.
    """
    raw = _CHARACTERS[1:].encode("ascii").hex()
    one = f"substr('{_CHARACTERS}', instr(x'{raw}', substr({stored}, length(read) + 1, 1)) + 1, 1)"
    slowly = (
        "(WITH RECURSIVE text (read) AS (SELECT '' UNION ALL "  # noqa: S608 - our own names
        f"SELECT read || {one} FROM text WHERE length(read) < length({stored})) "
        f"SELECT read FROM text WHERE length(read) = length({stored}))"
    )
    blob = f"CASE length(CAST('a' AS BLOB)) WHEN 1 THEN CAST({stored} AS TEXT) ELSE {slowly} END"
    return f"CASE typeof({stored}) WHEN 'blob' THEN {blob} ELSE {stored} END"


def _all(conditions: list[str], element: HasForm, text: str, compiler: SQLCompiler) -> str:
    if element.registered:
        table, check = compiler.preparer.format_table(keys), compiler.preparer.quote("check")
        beginnings = f"SELECT substr({check}, 1, {_BEGINNING}) FROM {table} WHERE kind = 'v2'"  # noqa: S608
        conditions = [*conditions, f"substr({text}, 1, {_BEGINNING}) IN ({beginnings})"]
    return f"({' AND '.join(conditions)})"
