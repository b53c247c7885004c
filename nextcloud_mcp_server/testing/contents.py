"""What is in a database, so that two moments of it can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nextcloud_mcp_server.backends.sqlite.catalog import Execute, quoted, read_structure

#: One value with the type that SQLite stores it as: 1, 1.0 and True are not the same bytes.
Cell = tuple[str, Any]


@dataclass(frozen=True, slots=True)
class Contents:
    """The rows of one table.

    Attributes:
        columns: the names of its columns, in order.
        rows: its rows, each a cell for each column.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def only(self, columns: Iterable[str]) -> Counter[tuple[Cell, ...]]:
        """The rows with no other than ``columns``, counted."""
        places = [self.columns.index(name) for name in columns]
        return Counter(tuple(row[place] for place in places) for row in self.rows)

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as people write them."""
        return [
            dict(zip(self.columns, (value for _, value in row), strict=True)) for row in self.rows
        ]


def read_contents(execute: Execute) -> dict[str, Contents]:
    """Every row of every table, without SQLite's, Alembic's and virtual tables."""
    structure = read_structure(execute)
    found = {}
    for name in sorted(structure.own_tables):
        if structure.tables[name].sql.startswith("CREATE VIRTUAL "):
            continue
        columns = tuple(structure.tables[name].columns)
        names = ", ".join(map(quoted, columns))
        rows = execute(f"SELECT {names} FROM {quoted(name)}")  # noqa: S608 - quoted
        found[name] = Contents(
            columns, tuple(tuple((type(c).__name__, c) for c in row) for row in rows)
        )
    return found


def difference(
    table: str, before: Contents, after: Contents, rewrites: Collection[str], *, more: bool
) -> str:
    """What a step did to rows that it should have kept; empty where it kept them all.

    Args:
        table: the name of the table.
        before: the table before the step.
        after: the table after it.
        rewrites: columns whose values may change.
        more: whether rows may have come.
    """
    kept = [n for n in before.columns if n in after.columns and n not in rewrites]
    was, now = before.only(kept), after.only(kept)
    lost, new = was - now, now - was
    if not lost and (more or not new):
        return ""
    fewer = len(before.rows) - len(after.rows)
    if fewer > 0:
        row = dict(zip(kept, (value for _, value in min(lost, key=repr)), strict=True))
        return f"loses {fewer} of {len(before.rows)} rows of {table}, among them {row}"
    if fewer < 0 and not lost:
        return f"adds rows to {table}: {-fewer}"
    changed = [name for name in kept if before.only([name]) != after.only([name])] or kept
    was, now = before.only(changed), after.only(changed)
    return (
        f"changes {', '.join(changed)} of {table} from {_first(was - now)} to "
        f"{_first(now - was)} (where it is meant to: rewrites={{{table!r}: {changed}}})"
    )


def _first(rows: Counter[tuple[Cell, ...]]) -> str:
    return ", ".join(repr(value) for _, value in min(rows, key=repr)) if rows else "nothing"


def read_catalogue(execute: Execute) -> Mapping[str, object]:
    """Everything that the catalogue promises, but for the order and the layout of its text.

    By the name of each table, view and trigger: two databases with equal answers take the
    same rows.
    """
    structure = read_structure(execute)
    promised: dict[str, object] = {}
    for kind, name, sql in execute("SELECT type, name, sql FROM sqlite_master"):
        if kind == "table" and name in structure.own_tables:
            promised[name] = _table(execute, name)
        elif kind in {"trigger", "view"}:
            promised[f"{kind} {name}"] = " ".join(sql.split())
    return promised


def _table(execute: Execute, name: str) -> dict[str, object]:
    table = quoted(name)
    columns = {row[1]: tuple(row[2:]) for row in execute(f"PRAGMA table_xinfo({table})")}
    indexes = {}
    for _, index, unique, origin, partial in execute(f"PRAGMA index_list({table})"):
        members = [tuple(row[2:]) for row in execute(f"PRAGMA index_xinfo({quoted(index)})")]
        # SQLite numbers the indexes that it makes itself in the order of their constraints.
        key = index if origin == "c" else f"{origin} {members}"
        indexes[key] = (unique, partial, members)
    keys = sorted(tuple(row[2:]) for row in execute(f"PRAGMA foreign_key_list({table})"))
    return {"columns": columns, "indexes": indexes, "foreign keys": keys}
