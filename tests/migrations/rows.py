"""Rows for every table, with values that a careless migration would change."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from tests.migrations import facts
from tests.migrations.database import Rows
from tests.support.revisions import KNOWN, NEWER

#: The columns whose separators revision 004 rewrites.
SCOPES: Final = (("app_passwords", "scopes"), ("login_flow_sessions", "requested_scopes"))

_SCOPE_VALUES: Final = ('["notes:read", "notes:write"]', "[]", '["a:b:c"]')
_NUMBERS: Final = (1_780_000_000, -1, 2**62)
_TIMES: Final = ("2026-06-07 18:20:00.123456", "1970-01-01 00:00:00", "2099-12-31 23:59:59.9")


def seed(revision: str, lineage: facts.Lineage, *, only: frozenset[str] | None = None) -> Rows:
    """Three rows for each table at ``revision``, or for ``only`` some of them.

    The second row has NULL wherever it may. At a revision newer than the facts, the tables
    that they know get rows: what others take is not known.
    """
    tables = facts.tables(revision, lineage)
    if revision in NEWER:
        tables = _known(tables, facts.tables(KNOWN[-1], lineage))
    return {
        name: [_row(name, table, number, revision, lineage) for number in range(3)]
        for name, table in tables.items()
        if only is None or name in only
    }


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
