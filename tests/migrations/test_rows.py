"""The rows of the walks: every table has some, and a revision declares its own."""

from __future__ import annotations

from datetime import datetime

import pytest

from tests.migrations import facts, rows
from tests.migrations.revisions.rows_101_add_migration_journal import ROWS
from tests.migrations.rows import declared, seed
from tests.support.revisions import ALL


@pytest.mark.parametrize("revision", ALL)
def test_every_table_has_rows(revision: str) -> None:
    """A table that no row is put into is walked for nothing: declare some in its file of rows."""
    empty = {name for name in facts.tables(revision) if not seed(revision, "portable").get(name)}
    assert empty == set(), f"declare rows of {empty} in {rows.DECLARED}/rows_{revision}_*.py"


def test_what_is_declared_fits() -> None:
    """Each file is of a revision that there is, and each column of a table that it has."""
    assert set(declared()) <= set(ALL)
    for revision, found in declared().items():
        tables = facts.tables(revision)
        for name, members in found.items():
            assert members
            columns = {column.name for column in tables[name].columns}
            assert {column for row in members for column in row} <= columns


def test_declared_rows_are_those_of_the_walk() -> None:
    """At their revision and after it, the rows that a revision declares are the ones put in."""
    assert seed("101", "portable")["migration_journal"] == ROWS["migration_journal"]
    assert seed("101", "postgresql")["migration_journal"] == ROWS["migration_journal"]
    assert seed(ALL[-1], "portable")["migration_journal"]
    assert "migration_journal" not in seed("010", "portable")
    assert set(seed("101", "portable", only=frozenset({"audit_logs"}))) == {"audit_logs"}


def test_the_newest_rows_of_a_table_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later file declares a table anew; columns that a table does not have are left out."""
    moment = datetime(2026, 6, 7, 18, 20)  # noqa: DTZ001 - the column has no zone
    mine = {
        "009": {"document_paths": [{"doc_id": "old"}]},
        "010": {"document_paths": [{"doc_id": "new", "gone": 1, "updated_at": moment}]},
        "101": {"registered_webhooks": [{"id": 1}]},
    }
    monkeypatch.setattr(rows, "declared", lambda: mine)
    assert seed("009", "portable")["document_paths"] == [{"doc_id": "old"}]
    for revision in ("010", "101"):
        (row,) = seed(revision, "portable")["document_paths"]
        assert row == {"doc_id": "new", "updated_at": "2026-06-07 18:20:00"}
    (row,) = seed("101", "postgresql")["document_paths"]
    assert row["updated_at"] is moment
    assert "registered_webhooks" not in seed("101", "portable")
