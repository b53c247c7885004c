"""Recreate a table of SQLite with other columns and constraints.

Follows "Making Other Kinds Of Table Schema Changes" in SQLite's documentation: create, copy,
drop, rename, and create the indexes and triggers again. Alembic's batch mode does the same from
a reflected table, but reflection loses collations, unnamed CHECKs, WITHOUT ROWID and expression
indexes, and the copy loses the rowids. So the text of the old CREATE TABLE is the source here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

#: Alembic's own prefix: a startup renames such a table back if the original is missing.
PREFIX = "_alembic_tmp_"

_TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|[(),]
                 |(?:[^\s(),'"`\[/-]|/(?!\*)|-(?!-))+|.)""",
    re.DOTALL | re.VERBOSE,
)
_SIMPLE_NAME = re.compile(r'["`\[](\w+)["`\]]')
_CONSTRAINT = re.compile(r"(constraint|primary|unique|check|foreign)\b", re.IGNORECASE)
_OBJECTS = """
    SELECT type, name, sql FROM sqlite_master
    WHERE lower(tbl_name) = lower(?) AND sql IS NOT NULL ORDER BY rowid
"""
_INSERTABLE = """
    SELECT name, upper(type), "notnull", dflt_value, pk FROM pragma_table_xinfo(?) WHERE NOT hidden
"""
_PROBE = "_token_store_probe"

#: Executes a statement and returns its rows.
Execute = Callable[..., Sequence[Any]]


class Declared(NamedTuple):
    """The parts of a CREATE TABLE: columns by lower-cased name, constraints, options."""

    columns: dict[str, str]
    constraints: list[str]
    options: str

    @property
    def plain(self) -> frozenset[str]:
        """The parts in a normal form, to compare two tables."""
        return frozenset(map(_plain, [*self.columns.values(), *self.constraints, self.options]))

    @property
    def autoincrement(self) -> bool:
        """Whether a column is AUTOINCREMENT."""
        return any(" autoincrement" in _plain(text) for text in self.columns.values())


def recreate(
    execute: Execute, table: sa.Table, values: Mapping[str, str], drop: frozenset[str]
) -> None:
    """Recreate a table if it differs from ``table``; the names in ``values`` are lower-cased.

    Raises:
        CommandError: see ``Guards.recreate_table``.
    """
    taken = {name.lower(): name for (name,) in execute("SELECT name FROM sqlite_master")}
    if table.name.lower() not in taken and (copy := (PREFIX + table.name).lower()) in taken:
        # A recreation without a transaction stopped between DROP and RENAME.
        _rename(execute, taken.pop(copy), table.name)
    objects = execute(_OBJECTS, (table.name,))
    own, sql = next(((n, sql) for kind, n, sql in objects if kind == "table"), ("", ""))
    if not own:
        raise CommandError(f"recreate_table: the table {table.name} does not exist.")
    old = _parse(sql)
    table.dialect_options["sqlite"]["autoincrement"] = old.autoincrement
    creating = sa.schema.CreateTable(table).compile(dialect=op.get_context().dialect)
    new = _merged(old, _parse(str(creating)), drop)
    if new.plain == old.plain:
        return
    names = (f"{PREFIX}{own}{n or ''}" for n in range(len(taken) + 1))
    aside = next(name for name in names if name.lower() not in taken)
    was_valid = bool(drop) and not _schema_error(execute)
    body = ", \n\t".join([*new.columns.values(), *new.constraints])
    execute(f"CREATE TABLE {_quoted(aside)} (\n\t{body}\n) {new.options}".rstrip())
    has_rowid = "without" not in new.options.lower()
    copied = _copied(execute(_INSERTABLE, (aside,)), own, old, values, has_rowid)
    execute(
        f"INSERT INTO {_quoted(aside)} ({', '.join(copied)}) "  # noqa: S608
        f"SELECT {', '.join(copied.values())} FROM {_quoted(own)}"
    )
    if old.autoincrement and new.autoincrement:
        execute("DELETE FROM sqlite_sequence WHERE name = ?", (aside,))
        execute("UPDATE sqlite_sequence SET name = ? WHERE name = ?", (aside, own))
    execute(f"DROP TABLE {_quoted(own)}")
    _rename(execute, aside, own)
    for kind, _, statement in objects:
        used = (_mentions(statement.partition("(")[2], column) for column in drop)
        if kind == "trigger" or (kind == "index" and not any(used)):
            execute(statement)
    if was_valid and (error := _schema_error(execute)):
        raise CommandError(f"{', '.join(sorted(drop))} of {own} cannot be dropped: {error}")


def _parse(sql: str) -> Declared:
    parts, options, depth = [""], "", 0
    for match in _TOKEN.finditer(sql):
        part = match["text"] or " "
        depth -= part == ")"
        if depth == 1 and part == ",":
            parts.append("")
        elif depth:
            parts[-1] += part
        elif parts[-1] and part != ")":
            options += part
        depth += part == "("
    texts = [part.strip() for part in parts if part.strip()]
    columns = {_name(t).lower(): t for t in texts if not _CONSTRAINT.match(t)}
    return Declared(columns, [t for t in texts if _CONSTRAINT.match(t)], options.strip())


def _merged(old: Declared, wanted: Declared, drop: frozenset[str]) -> Declared:
    """Add to ``wanted`` the surplus columns of ``old`` and the constraints that name them."""
    surplus = {n: t for n, t in old.columns.items() if n not in {*wanted.columns, *drop}}
    kept = [t for t in old.constraints if any(_mentions(t, name) for name in surplus)]
    plain = {_plain(text) for text in wanted.constraints}
    constraints = wanted.constraints + [text for text in kept if _plain(text) not in plain]
    return Declared(wanted.columns | surplus, constraints, old.options)


def _copied(
    info: Sequence[Any], own: str, old: Declared, values: Mapping[str, str], rowid: bool
) -> dict[str, str]:
    """Return the expression for each column that is copied, by its quoted name."""
    copied = {}
    for name, _, required, default, _ in info:
        if name.lower() in values:
            copied[_quoted(name)] = f"({values[name.lower()]})"
        elif name.lower() in old.columns:
            copied[_quoted(name)] = _quoted(_name(old.columns[name.lower()]))
        elif required and default is None:
            raise CommandError(
                f"{own} lacks the required column {name}: give its value for existing rows in "
                "values."
            )
    # An INTEGER PRIMARY KEY is the rowid already.
    if rowid and [type_ for _, type_, _, _, key in info if key] != ["INTEGER"]:
        taken = {*old.columns, *(name.lower() for name, *_ in info)}
        copied |= {name: name for name in sorted({"rowid", "_rowid_", "oid"} - taken)[:1]}
    return copied


def _rename(execute: Execute, old: str, new: str) -> None:
    """Rename a table although a view names one that does not exist at this moment."""
    with _legacy(execute, "ON"):
        execute(f"ALTER TABLE {_quoted(old)} RENAME TO {_quoted(new)}")


@contextmanager
def _legacy(execute: Execute, wanted: str) -> Iterator[None]:
    before = "ON" if execute("PRAGMA legacy_alter_table")[0][0] else "OFF"
    execute(f"PRAGMA legacy_alter_table={wanted}")
    try:
        yield
    finally:
        execute(f"PRAGMA legacy_alter_table={before}")


def _schema_error(execute: Execute) -> str:
    """Return SQLite's error if a view or a trigger is broken; dropping a column checks all."""
    with _legacy(execute, "OFF"):
        execute(f"CREATE TABLE {_PROBE} (a, b)")
        try:
            execute(f"ALTER TABLE {_PROBE} DROP COLUMN b")
        except sa.exc.OperationalError as error:
            return str(error.orig)
        finally:
            execute(f"DROP TABLE {_PROBE}")
    return ""


def _plain(text: str) -> str:
    """Return what two declarations with the same meaning have in common."""
    tokens = (match["text"] for match in _TOKEN.finditer(text) if match["text"])
    unquoted = (t if t[0] == "'" else _SIMPLE_NAME.sub(r"\1", t).lower() for t in tokens)
    return " ".join(unquoted)


def _name(declaration: str) -> str:
    """Return the name of a column without its quotes."""
    first = next(m["text"] for m in _TOKEN.finditer(declaration) if m["text"])
    if first[0] in "\"'`":
        return first[1:-1].replace(first[0] * 2, first[0])
    return first[1:-1] if first[0] == "[" else first


def _mentions(sql: str, column: str) -> bool:
    return bool(re.search(rf"\b{re.escape(column)}\b", sql, re.IGNORECASE))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
