"""What is copied is the same on both engines."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.migrations import upgrade_database
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from tests.history import corpus
from tests.history.case import Case
from tests.maintenance.copy.conftest import copy

_ALL = [case for case in corpus.all_cases() if case.refusal is None]

#: Every sixth file, and those of the values and objects that are special; all take two minutes.
CASES = [case for number, case in enumerate(_ALL) if number % 6 == 0 or "_hard_" in case.name]


def rows_by_column(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of a file, each by the names of its columns; secrets are bytes."""
    found: dict[str, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            rows = [dict(row) for row in connection.execute(f'SELECT * FROM "{table}"')]
            for row in rows:
                for column in row.keys() & {c for t, c in ENCRYPTED if t == table}:
                    value = row[column]
                    row[column] = value.encode() if isinstance(value, str) else value
            found[table] = sorted(rows, key=repr)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_real_file_is_the_same_after_both_ways(case: Case, tmp_path: Path, schema: str) -> None:
    """A file of a release goes to a server and back, and has every row that it had."""
    before, after = tmp_path / "before.db", tmp_path / "after.db"
    case.write(before)
    upgrade_database(before)
    there = copy(before, schema, case.key, without_keys=True)
    back = copy(schema, after, case.key, without_keys=True)
    assert (there.rows, bool(there.rows)) == (back.rows, True)
    found = rows_by_column(after)
    for table, rows in rows_by_column(before).items():
        if table in there.rows:
            wanted = [{name: row[name] for name in found[table][0]} for row in rows]
            assert sorted(wanted, key=repr) == found[table]
