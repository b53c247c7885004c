"""The structure of each revision on PostgreSQL, from the SQL that Alembic writes offline.

The names are those of SQLite, where the revisions were run; the statements that create them are
PostgreSQL's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Final

from nextcloud_mcp_server.migrate.alembic_commands import write_sql
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import Column, Structure, Table

_NAME: Final = r'(?:[\w$]+\.)?"?([\w$]+)"?'
_FLAGS: Final = re.IGNORECASE | re.DOTALL
_CREATE_TABLE: Final = re.compile(rf"CREATE TABLE {_NAME}\s*\((.*)\)", _FLAGS)
_DROP_TABLE: Final = re.compile(rf"DROP TABLE (?:IF EXISTS )?{_NAME}", _FLAGS)
_RENAME_TABLE: Final = re.compile(rf"ALTER TABLE {_NAME} RENAME TO {_NAME}", _FLAGS)
_ADD_COLUMN: Final = re.compile(rf"ALTER TABLE {_NAME} ADD (?:COLUMN )?{_NAME} (.*)", _FLAGS)
_CREATE_INDEX: Final = re.compile(rf"CREATE (?:UNIQUE )?INDEX {_NAME} ON {_NAME}", _FLAGS)
_DROP_INDEX: Final = re.compile(rf"DROP INDEX (?:IF EXISTS )?{_NAME}", _FLAGS)
_CHANGES_ROWS: Final = re.compile(r"(INSERT|UPDATE|DELETE|SELECT|WITH|BEGIN|COMMIT)\b", _FLAGS)


@dataclass
class _State:
    """What the statements have created until now.

    Attributes:
        tables: the statements that create each table, and change it afterwards.
        declarations: the type and default of each column, by table.
        indexes: the statement that creates each index.
        owners: the table of each index.
    """

    tables: dict[str, list[str]] = field(default_factory=dict)
    declarations: dict[str, dict[str, str]] = field(default_factory=dict)
    indexes: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)

    def apply(self, sql: str) -> None:
        """Apply one statement."""
        sql = re.sub(r"(?i)\bIF NOT EXISTS ", "", sql)
        if found := _CREATE_TABLE.match(sql):
            name, body = found.groups()
            self.tables[name] = [sql]
            self.declarations[name] = dict(_declared(body))
        elif found := _DROP_TABLE.match(sql):
            self._drop(found[1])
        elif found := _RENAME_TABLE.match(sql):
            old, new = found.groups()
            self.tables[new] = [*self.tables.pop(old, ()), sql]
            self.declarations[new] = self.declarations.pop(old, {})
            self.owners = {i: new if t == old else t for i, t in self.owners.items()}
        elif found := _CREATE_INDEX.match(sql):
            index, table = found.groups()
            self.indexes[index], self.owners[index] = sql, table
        elif found := _DROP_INDEX.match(sql):
            self.indexes.pop(found[1], None)
            self.owners.pop(found[1], None)
        elif not _CHANGES_ROWS.match(sql):
            self._change(sql)

    def _drop(self, table: str) -> None:
        self.tables.pop(table, None)
        self.declarations.pop(table, None)
        for index in [i for i, owner in self.owners.items() if owner == table]:
            del self.indexes[index], self.owners[index]

    def _change(self, sql: str) -> None:
        """Keep a statement with the table that it changes: it may name a sequence of it only."""
        if found := _ADD_COLUMN.match(sql):
            table, column, declaration = found.groups()
            self.declarations.setdefault(table, {})[column] = declaration
        for name, statements in self.tables.items():
            if re.search(rf"\b{name}(_\w+_seq)?\b", sql):
                statements.append(sql)


def structures(history: History, names: Mapping[str, Structure]) -> dict[str, Structure]:
    """Return the structure at each revision.

    Args:
        history: the revisions.
        names: the structure of each on SQLite.
    """
    state, found, below = _State(), {}, None
    for revision in history.revisions:
        written = _Statements()
        write_sql(history, below, revision, written, dialect="postgresql", reviewed=True)
        for sql in written.found:
            state.apply(sql)
        found[revision] = _structure(state, names[revision])
        below = revision
    return found


def _structure(state: _State, names: Structure) -> Structure:
    tables = {
        name: Table(_columns(table, state.declarations[name]), ";\n".join(state.tables[name]))
        for name, table in names.tables.items()
        if name in state.tables
    }
    there = {
        index: t for index, t in names.owners.items() if t in tables and index in state.indexes
    }
    return Structure(tables, {index: state.indexes[index] for index in there}, there)


def _columns(table: Table, declarations: Mapping[str, str]) -> dict[str, Column]:
    return {
        name: column._replace(
            declaration="" if column.required else declarations.get(name, column.declaration)
        )
        for name, column in table.columns.items()
    }


class _Statements(StringIO):
    """Collects the statements, of which each is written by one call, without comments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def write(self, text: str) -> int:
        """Take one statement."""
        lines = (line for line in text.splitlines() if not line.startswith("--"))
        if sql := "\n".join(lines).strip().removesuffix(";"):
            self.found.append(sql)
        return len(text)


def _declared(body: str) -> Iterator[tuple[str, str]]:
    """Yield the columns of the body of CREATE TABLE, each with its type and default."""
    for part in _split(body):
        words = part.split(None, 1)
        if len(words) == 2 and words[0].upper() not in _CONSTRAINTS:  # noqa: PLR2004 - name and type
            yield words[0].strip('"'), words[1]


_CONSTRAINTS: Final = frozenset(
    {"PRIMARY", "UNIQUE", "CONSTRAINT", "CHECK", "FOREIGN", "EXCLUDE", "LIKE"}
)


def _split(body: str) -> Iterator[str]:
    """Split at the commas outside of parentheses and quotes."""
    depth, quote, begin = 0, "", 0
    for place, character in enumerate(body):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "," and not depth:
            yield body[begin:place].strip()
            begin = place + 1
    yield body[begin:].strip()
