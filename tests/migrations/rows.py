"""Rows for every table, with values that a careless migration would change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.testing.changes import Changes, RowChanges
from tests.migrations import facts
from tests.migrations.database import Rows
from tests.support.revisions import ALL, KNOWN, NEWER

#: The folder of the files that declare the test data of a revision; see its docstring.
FOLDER: Final = Path(__file__).with_name("revisions")

_NUMBERS: Final = (1_780_000_000, -1, 2**62)
_TIMES: Final = ("2026-06-07 18:20:00.123456", "1970-01-01 00:00:00", "2099-12-31 23:59:59.9")


@dataclass(frozen=True)
class Declared:
    """The test data that one file declares."""

    rows: Rows
    before: Rows
    changes: Changes


@cache
def declared() -> dict[str, Declared]:
    """Return the declared test data by revision."""
    found: dict[str, Declared] = {}
    for path in sorted(FOLDER.glob("rows_*.py")):
        revision = path.stem.split("_")[1]
        assert revision not in found, f"two files declare the rows of {revision}"
        module = import_module(f"{__package__}.{FOLDER.name}.{path.stem}")
        found[revision] = Declared(
            module.ROWS, getattr(module, "BEFORE", {}), getattr(module, "CHANGES", Changes())
        )
    return found


def seed(
    revision: str,
    lineage: facts.Lineage,
    *,
    only: frozenset[str] | None = None,
    before: bool = True,
) -> Rows:
    """Return rows for each table at ``revision``, or for ``only`` some of them.

    For a table that files declare rows for: the newest ``ROWS`` up to this revision and the
    next ``BEFORE`` above it, without columns that the table does not have. Else three rows, of
    which the second has NULL where it is allowed; at a revision newer than the facts, only for
    the tables that the facts have.

    Args:
        before: whether to include ``BEFORE``. A test with a next revision of its own does not.
    """
    tables = facts.tables(revision, lineage)
    generated = tables
    if revision in NEWER:
        generated = _known(tables, facts.tables(KNOWN[-1], lineage))
    rows = {
        name: [_row(table, number, lineage) for number in range(3)]
        for name, table in generated.items()
    } | _declared(revision, tables, lineage, before=before)
    return {name: members for name, members in rows.items() if only is None or name in only}


def _declared(
    revision: str, tables: dict[str, facts.Table], lineage: facts.Lineage, *, before: bool
) -> Rows:
    below = ALL[: ALL.index(revision) + 1] if revision in ALL else ()
    newest: Rows = {}
    for other in below:
        newest |= declared()[other].rows if other in declared() else {}
    following: Rows = {}
    for other in reversed(ALL[len(below) :] if before else ()):
        following |= declared()[other].before if other in declared() else {}
    return {
        name: [
            _fitting(row, table, lineage)
            for row in (*newest.get(name, ()), *following.get(name, ()))
        ]
        for name, table in tables.items()
        if name in newest or name in following
    }


def _fitting(row: Mapping[str, Any], table: facts.Table, lineage: facts.Lineage) -> dict[str, Any]:
    """Return the row without columns that the table does not have, as the driver takes it."""
    columns = {column.name for column in table.columns}
    return {name: _given(value, lineage) for name, value in row.items() if name in columns}


def _given(value: Any, lineage: facts.Lineage) -> Any:
    # SQLite keeps a point in time as text.
    return value if lineage == "postgresql" or not isinstance(value, datetime) else str(value)


def changes(start: str, end: str, lineage: facts.Lineage) -> list[RowChanges]:
    """Return the declared changes of each step from ``start`` to ``end``, in order."""
    low, high = sorted((start if start != "base" else "", end if end != "base" else ""))
    steps = [revision for revision in ALL if low < revision <= high and revision in declared()]
    found = [declared()[revision].changes for revision in steps]
    ways = (
        [one.upgrade for one in found]
        if high == end
        else [one.downgrade for one in reversed(found)]
    )
    return [
        {
            table: [
                (before and _as(before, lineage), after and _as(after, lineage))
                for before, after in members
            ]
            for table, members in way.items()
        }
        for way in ways
    ]


def _as(row: Mapping[str, Any], lineage: facts.Lineage) -> dict[str, Any]:
    return {name: _given(value, lineage) for name, value in row.items()}


def _known(tables: dict[str, facts.Table], known: dict[str, facts.Table]) -> dict[str, facts.Table]:
    """The tables that are known, without the columns that are new and fill themselves."""
    return {
        name: facts.Table(
            tuple(
                column
                for column in table.columns
                if column.name in {c.name for c in known[name].columns}
                or (column.required and column.default is None)
            )
        )
        for name, table in tables.items()
        if name in known
    }


def _row(table: facts.Table, number: int, lineage: facts.Lineage) -> dict[str, Any]:
    return {
        column.name: None
        if number == 1 and not column.required and not column.key
        else _value(column, number, lineage)
        for column in table.columns
    }


def _value(column: facts.Column, number: int, lineage: facts.Lineage) -> Any:  # noqa: PLR0911
    match column.type.upper():
        case "TEXT":
            # Colons, dots, quotes and percent signs, where nothing may be replaced.
            return f"{column.name}-{number} Ünï:çødé.用户 🙂 'a' \"b\" %s %% :x\n"
        case "BLOB" | "BYTEA":
            return bytes(range(256)) + b"gAAAA:." + bytes([number])
        case "INTEGER" | "BIGINT" if column.key or column.name == "webhook_id":
            return number + 1
        case "INTEGER" | "BIGINT":
            return _NUMBERS[number]
        case "BOOLEAN":
            return number == 0 if lineage == "postgresql" else int(number == 0)
        case "TIMESTAMP":
            return _TIMES[number]
        case "TIMESTAMP WITHOUT TIME ZONE":
            return datetime.fromisoformat(_TIMES[number])
        case _:
            return number + 0.1
