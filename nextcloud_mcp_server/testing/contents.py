"""The contents and the catalog of a database, and how they differ from those of another moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nextcloud_mcp_server.backends.sqlite.catalog import Execute, quoted, read_structure
from nextcloud_mcp_server.testing.changes import RowChange

#: A value and its type: 1, 1.0 and True are equal in Python, and not in a file.
Cell = tuple[str, Any]


def cell(value: object) -> Cell:
    """Return a value with its type."""
    return type(value).__name__, value


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of one table.

    Attributes:
        columns: the names of its columns, in order.
        rows: its rows, a cell for each column.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def read(cls, columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> Contents:
        """Return the contents of rows with plain values."""
        return cls(tuple(columns), tuple(tuple(map(cell, row)) for row in rows))

    def only(self, columns: Iterable[str]) -> Counter[tuple[Cell, ...]]:
        """Return the rows reduced to ``columns``, counted."""
        places = [self.columns.index(name) for name in columns]
        return Counter(tuple(row[place] for place in places) for row in self.rows)

    def dicts(self) -> list[dict[str, Any]]:
        """Return the rows with plain values."""
        return [_values(self.columns, row) for row in self.rows]

    def changed(self, changes: Sequence[RowChange], used: set[int]) -> Contents:
        """Return the contents after ``changes``; the index of each that applies goes to ``used``.

        Columns that only a change has are added; they are NULL in the other rows.
        """
        new = {name: None for _, after in changes for name in after or ()}
        columns = tuple(dict.fromkeys((*self.columns, *new)))
        rows = []
        for row in (dict(zip(self.columns, cells, strict=True)) for cells in self.rows):
            for number, (before, after) in enumerate(changes):
                if before is not None and all(row.get(n) == cell(v) for n, v in before.items()):
                    used.add(number)
                    if after is not None:
                        rows.append(row | {name: cell(value) for name, value in after.items()})
                    break
            else:
                rows.append(row)
        for number, (before, after) in enumerate(changes):
            if before is None and after is not None:
                used.add(number)
                rows.append({name: cell(value) for name, value in after.items()})
        nothing = cell(None)
        return Contents(columns, tuple(tuple(r.get(n, nothing) for n in columns) for r in rows))


def read_contents(execute: Execute) -> dict[str, Contents]:
    """Return the contents of every table, except those of SQLite and Alembic and virtual tables."""
    structure = read_structure(execute)
    found = {}
    for name in sorted(structure.own_tables):
        if not structure.tables[name].sql.startswith("CREATE VIRTUAL "):
            columns = structure.tables[name].columns
            names = ", ".join(map(quoted, columns))
            found[name] = Contents.read(columns, execute(f"SELECT {names} FROM {quoted(name)}"))  # noqa: S608
    return found


def difference(table: str, wanted: Contents, after: Contents, *, more: bool = False) -> str:
    """Return how a table differs from what it should hold; empty if it does not.

    Only columns that both have are compared.

    Args:
        table: the name of the table.
        wanted: what it should hold.
        after: what it holds.
        more: whether it may hold other rows as well.
    """
    kept = [name for name in wanted.columns if name in after.columns]
    was, now = wanted.only(kept), after.only(kept)
    lost, new = was - now, now - was
    if not lost and (more or not new):
        return ""
    fewer = len(wanted.rows) - len(after.rows)
    if fewer > 0:
        row = _values(kept, min(lost, key=repr))
        return f"loses {fewer} of {len(wanted.rows)} rows of {table}, among them {row}"
    if fewer < 0 and not lost:
        return f"adds rows to {table}: {-fewer}"
    changed = [name for name in kept if wanted.only([name]) != after.only([name])] or kept
    was, now = wanted.only(changed), after.only(changed)
    return (
        f"changes {', '.join(changed)} of {table} from {_first(was - now)} to "
        f"{_first(now - was)} (if that is intended, declare it in changes)"
    )


def _values(columns: Iterable[str], row: Iterable[Cell]) -> dict[str, Any]:
    return dict(zip(columns, (value for _, value in row), strict=True))


def _first(rows: Counter[tuple[Cell, ...]]) -> str:
    return ", ".join(repr(value) for _, value in min(rows, key=repr)) if rows else "nothing"


def read_catalogue(execute: Execute) -> Mapping[str, object]:
    """Return the definitions of all tables, views and triggers, by name.

    The order and the layout of their text do not count: two databases with equal definitions
    take the same rows.
    """
    structure = read_structure(execute)
    definitions: dict[str, object] = {}
    for kind, name, sql in execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table" and name in structure.own_tables:
            definitions[name] = _table(execute, name)
        elif kind in {"trigger", "view"}:
            definitions[f"{kind} {name}"] = " ".join(sql.split())
    return definitions


def _table(execute: Execute, name: str) -> dict[str, object]:
    table = quoted(name)
    columns = {row[1]: tuple(row[2:]) for row in execute(f"PRAGMA table_xinfo({table})")}
    indexes = {}
    for _, index, unique, origin, partial in execute(f"PRAGMA index_list({table})"):
        members = [tuple(row[2:]) for row in execute(f"PRAGMA index_xinfo({quoted(index)})")]
        # SQLite numbers the indexes of constraints in the order of the constraints.
        key = index if origin == "c" else f"{origin} {members}"
        indexes[key] = (unique, partial, members)
    keys = sorted(tuple(row[2:]) for row in execute(f"PRAGMA foreign_key_list({table})"))
    return {"columns": columns, "indexes": indexes, "foreign keys": keys}
