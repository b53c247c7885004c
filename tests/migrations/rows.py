"""Rows for every table, with values that a careless migration would change."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from tests.migrations import facts
from tests.migrations.database import Rows
from tests.support.revisions import ALL, KNOWN, NEWER

#: Where each revision's own rows are declared.
DECLARED: Final = Path(__file__).with_name("revisions")

#: The columns whose separators revision 004 rewrites.
SCOPES: Final = (("app_passwords", "scopes"), ("login_flow_sessions", "requested_scopes"))

_SCOPE_VALUES: Final = ('["notes:read", "notes:write"]', "[]", '["a:b:c"]')
_NUMBERS: Final = (1_780_000_000, -1, 2**62)
_TIMES: Final = ("2026-06-07 18:20:00.123456", "1970-01-01 00:00:00", "2099-12-31 23:59:59.9")


def seed(revision: str, lineage: facts.Lineage, *, only: frozenset[str] | None = None) -> Rows:
    """Rows for each table at ``revision``, or for ``only`` some of them.

    Those that a revision declares (see :mod:`.revisions`), from it on. Else three, of which
    the second has NULL wherever it may; at a revision newer than the facts for the tables
    that they know only, since what others take is not known.
    """
    tables = facts.tables(revision, lineage)
    made = tables
    if revision in NEWER:
        made = _known(tables, facts.tables(KNOWN[-1], lineage))
    rows = {
        name: [_row(name, table, number, revision, lineage) for number in range(3)]
        for name, table in made.items()
    } | _declared(revision, tables, lineage)
    return {name: members for name, members in rows.items() if only is None or name in only}


@cache
def declared() -> dict[str, Rows]:
    """The rows that are declared, by revision."""
    found: dict[str, Rows] = {}
    for path in sorted(DECLARED.glob("rows_*.py")):
        revision = path.stem.split("_")[1]
        assert revision not in found, f"two files declare the rows of {revision}"
        found[revision] = import_module(f"{__package__}.{DECLARED.name}.{path.stem}").ROWS
    return found


def _declared(revision: str, tables: dict[str, facts.Table], lineage: facts.Lineage) -> Rows:
    """The newest rows of each table of ``tables``, without columns that are gone by now."""
    found: Rows = {}
    for passed in ALL[: ALL.index(revision) + 1] if revision in ALL else ():
        for name, members in declared().get(passed, {}).items():
            if name in tables:
                kept = {column.name for column in tables[name].columns}
                found[name] = [
                    {
                        column: _given(value, lineage)
                        for column, value in row.items()
                        if column in kept
                    }
                    for row in members
                ]
    return found


def _given(value: Any, lineage: facts.Lineage) -> Any:
    """A value as the driver takes it: SQLite keeps a point in time as text."""
    return value if lineage == "postgresql" or not isinstance(value, datetime) else str(value)


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


def _row(
    name: str, table: facts.Table, number: int, revision: str, lineage: facts.Lineage
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in table.columns:
        if number == 1 and not column.required and not column.key:
            row[column.name] = None
        elif (name, column.name) in SCOPES:
            text = _SCOPE_VALUES[number]
            row[column.name] = text if revision < "004" else text.replace(":", ".")
        else:
            row[column.name] = _value(column, number, lineage)
    return row


def _value(column: facts.Column, number: int, lineage: facts.Lineage) -> Any:  # noqa: PLR0911
    match column.type.upper():
        case "TEXT":
            # Colons, dots, quotes and percent signs, where nothing may be replaced.
            return f"{column.name}-{number} Ünï:çødé.用户 🙂 'a' \"b\" %s %% :x\n"
        case "BLOB" | "BYTEA":
            return bytes(range(256)) + b"gAAAA:." + bytes([number])
        case "INTEGER" if column.key or column.name == "webhook_id":
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


def rewritten(rows: dict[str, list[tuple[Any, ...]]], old: str, new: str) -> dict[str, Any]:
    """What revision 004 makes of rows of the columns in SCOPES, read as (value, type)."""
    return {
        table: sorted(
            ((text and text.replace(old, new), *rest) for text, *rest in members), key=repr
        )
        for table, members in rows.items()
    }
