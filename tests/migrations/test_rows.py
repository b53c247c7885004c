"""The rows of the walks: every table has some, and a revision declares its own."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from nextcloud_mcp_server.testing.changes import Changes, RowChanges
from tests.migrations import facts, rows
from tests.migrations.revisions.rows_101_add_migration_journal import ROWS
from tests.migrations.rows import Declared, changes, declared, seed
from tests.support.revisions import ALL


@pytest.mark.parametrize("revision", ALL)
def test_every_table_has_rows(revision: str) -> None:
    """A table without rows is not tested: declare some in the revision's file of rows."""
    empty = {name for name in facts.tables(revision) if not seed(revision, "portable").get(name)}
    assert empty == set(), f"declare rows of {empty} in {rows.FOLDER}/rows_{revision}_*.py"


def test_what_is_declared_fits() -> None:
    """Each file is of an existing revision, and each column of a table that it has."""
    assert set(declared()) <= set(ALL)
    for revision, file in declared().items():
        for found, at in ((file.rows, revision), (file.before, facts.previous(revision))):
            tables = facts.tables(at)
            for name, members in found.items():
                assert members
                columns = {column.name for column in tables[name].columns}
                assert {column for row in members for column in row} <= columns


def test_declared_rows_are_those_of_the_walk() -> None:
    """At their revision and after it, the rows that a revision declares are inserted."""
    for lineage in ("portable", "postgresql"):
        assert seed("101", lineage)["migration_journal"] == ROWS["migration_journal"]
    assert seed(ALL[-1], "portable")["migration_journal"]
    assert "migration_journal" not in seed("010", "portable")
    assert set(seed("101", "portable", only=frozenset({"audit_logs"}))) == {"audit_logs"}


def _declare(monkeypatch: pytest.MonkeyPatch, **files: Declared) -> None:
    mine = {name.removeprefix("r"): file for name, file in files.items()}
    monkeypatch.setattr(rows, "declared", lambda: mine)


def _paths(table: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {"document_paths": [table]}


def test_the_newest_rows_of_a_table_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later file replaces the rows of a table; columns that it does not have are left out."""
    moment = datetime(2026, 6, 7, 18, 20)  # noqa: DTZ001 - the column has no zone
    newer = _paths({"doc_id": "new", "gone": 1, "updated_at": moment})
    _declare(
        monkeypatch,
        r009=Declared(_paths({"doc_id": "old"}), {}, Changes()),
        r010=Declared(newer, {}, Changes()),
        r101=Declared({"registered_webhooks": [{"id": 1}]}, {}, Changes()),
    )
    assert seed("009", "portable")["document_paths"] == [{"doc_id": "old"}]
    for revision in ("010", "101"):
        (row,) = seed(revision, "portable")["document_paths"]
        assert row == {"doc_id": "new", "updated_at": "2026-06-07 18:20:00"}
    (row,) = seed("101", "postgresql")["document_paths"]
    assert row["updated_at"] is moment
    assert "registered_webhooks" not in seed("101", "portable")


def test_rows_before_a_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the next file above are inserted beside the newest below, up to their revision."""
    _declare(
        monkeypatch,
        r009=Declared(_paths({"doc_id": "9"}), {}, Changes()),
        r010=Declared({}, {**_paths({"doc_id": "<10"}), "audit_logs": [{"id": 1}]}, Changes()),
        r101=Declared({}, _paths({"doc_id": "<101"}), Changes()),
    )
    assert seed("009", "portable")["document_paths"] == [{"doc_id": "9"}, {"doc_id": "<10"}]
    assert seed("010", "portable")["document_paths"] == [{"doc_id": "9"}, {"doc_id": "<101"}]
    assert seed("101", "portable")["document_paths"] == [{"doc_id": "9"}]
    assert seed("001", "portable")["audit_logs"] == [{"id": 1}]
    assert len(seed("010", "portable")["audit_logs"]) == 3


def test_changes_of_all_steps_between_two_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the order in which the revisions run, in either direction."""
    up, down = {"a": [({"b": 1}, None)]}, {"a": [(None, {"b": datetime(2026, 6, 7)})]}  # noqa: DTZ001
    later: RowChanges = {"c": [({}, {"d": 1})]}
    _declare(
        monkeypatch,
        r002=Declared({}, {}, Changes(up, down)),
        r004=Declared({}, {}, Changes(later, later)),
    )
    assert changes("base", "101", "portable") == [up, later]
    assert changes("101", "base", "postgresql") == [later, down]
    assert changes("002", "001", "portable") == [{"a": [(None, {"b": "2026-06-07 00:00:00"})]}]
    assert changes("002", "003", "portable") == []
