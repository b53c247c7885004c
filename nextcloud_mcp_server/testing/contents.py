"""The rows and the catalog of a database, to compare two moments of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nextcloud_mcp_server.backends.sqlite.catalog import Execute, read_structure
from nextcloud_mcp_server.schema.structure import quoted
from nextcloud_mcp_server.testing.changes import RowChange

#: A value and its type: 1, 1.0 and True are equal in Python, and not in a file.
Cell = tuple[str, Any]

#: The rows of a table.
Contents = list[dict[str, Cell]]


def typed(row: Mapping[str, Any]) -> dict[str, Cell]:
    """Return a row with the type of each value."""
    return {name: (type(value).__name__, value) for name, value in row.items()}


def read_contents(execute: Execute) -> dict[str, Contents]:
    """Return the rows of every table, except those of SQLite and Alembic and virtual tables."""
    structure = read_structure(execute)
    found = {}
    for name in sorted(structure.own_tables):
        if not structure.tables[name].sql.startswith("CREATE VIRTUAL "):
            columns = structure.tables[name].columns
            names = ", ".join(map(quoted, columns))
            rows = execute(f"SELECT {names} FROM {quoted(name)}")  # noqa: S608 - quoted
            found[name] = [typed(dict(zip(columns, row, strict=True))) for row in rows]
    return found


def changed(rows: Contents, changes: Sequence[RowChange], used: set[int]) -> Contents:
    """Return the rows after ``changes``; ``used`` receives the ids of those that apply."""
    wanted = []
    for row in rows:
        for change in changes:
            before, after = change
            if before is not None and typed(before).items() <= row.items():
                used.add(id(change))
                wanted += [] if after is None else [row | typed(after)]
                break
        else:
            wanted.append(row)
    for change in changes:
        before, after = change
        if before is None and after is not None:
            used.add(id(change))
            wanted.append(typed(after))
    return wanted


def difference(table: str, wanted: Contents, rows: Contents, *, more: bool = False) -> str:
    """Return how ``rows`` differ from what ``table`` should hold; empty if they do not.

    Only columns that both have are compared. With ``more``, other rows may be added.
    """
    there = {name for row in rows for name in row}
    kept = dict.fromkeys(n for row in wanted for n in row if n in there or not rows)
    was, now = _counted(wanted, kept), _counted(rows, kept or sorted(there))
    lost, new = was - now, now - was
    if not lost and (more or not new):
        return ""
    fewer = len(wanted) - len(rows)
    if fewer > 0:
        row = dict(zip(kept, (value for _, value in min(lost, key=repr)), strict=True))
        return f"loses {fewer} of {len(wanted)} rows of {table}, among them {row}"
    if fewer < 0 and not lost:
        return f"adds rows to {table}: {-fewer}"
    names = [n for n in kept if _counted(wanted, [n]) != _counted(rows, [n])] or list(kept)
    was, now = _counted(wanted, names), _counted(rows, names)
    return (
        f"changes {', '.join(names)} of {table} from {_first(was - now)} to "
        f"{_first(now - was)} (if that is intended, declare it in changes)"
    )


def _counted(rows: Contents, names: Iterable[str]) -> Counter[tuple[Cell, ...]]:
    nothing = ("NoneType", None)
    return Counter(tuple(row.get(name, nothing) for name in names) for row in rows)


def _first(rows: Counter[tuple[Cell, ...]]) -> str:
    return ", ".join(repr(value) for _, value in min(rows, key=repr)) if rows else "nothing"


def read_catalogue(execute: Execute) -> Mapping[str, object]:
    """Return the definitions of all tables, views and triggers by name, without their layout."""
    structure = read_structure(execute)
    definitions: dict[str, object] = {}
    for kind, name, sql in execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table" and name in structure.own_tables:
            definitions[name] = _table(execute, name)
        elif kind in {"trigger", "view"}:
            definitions[f"{kind} {name}"] = " ".join(sql.split())
    return definitions


def without_surplus(definition: Any, wanted: Any) -> object:
    """Return the definition of a table without the columns and indexes that another lacks."""
    if definition is None or wanted is None:
        return definition
    return {
        **definition,
        **{
            part: {n: value for n, value in definition[part].items() if n in wanted[part]}
            for part in ("columns", "indexes")
        },
    }


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
