"""A migration keeps every row that it does not delete on purpose, and operator objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nextcloud_mcp_server.migrate.plan import Action
from tests.cli.places import rows
from tests.migrations.test_examples import ADD_A_TABLE, RECREATE_A_TABLE
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.errors import refused
from tests.support.operator_objects import CHILD, INDEX, LOG, TRIGGER, VIEW
from tests.support.scripts import add_revision, sql_revision
from tests.support.shapes import at
from tests.support.snapshot import snapshot

if TYPE_CHECKING:
    import pytest


def test_only_declared_rows_may_be_deleted(own_scripts: Path, path: Path) -> None:
    """Only the tables in DELETES_ROWS_FROM may lose rows."""
    body = sql_revision("DELETE FROM audit_logs", "DELETE FROM refresh_tokens")
    add_revision(own_scripts, f'DELETES_ROWS_FROM = ("audit_logs",)\n\n\n{body}')
    at("010", "portable").write(path)
    assert "refresh_tokens had 12" in refused(lambda: prepare(path)).message
    body = sql_revision("DELETE FROM audit_logs")
    add_revision(own_scripts, f'DELETES_ROWS_FROM = ("audit_logs",)\n\n\n{body}')
    outcome = prepare(path)
    assert outcome.steps == ("101",)
    assert rows(path, "SELECT count(*) FROM audit_logs") == [(0,)]
    assert outcome.backup is not None
    assert rows(outcome.backup, "SELECT count(*) FROM audit_logs") == [(13,)]


def test_both_examples_of_the_documentation_run(own_scripts: Path, path: Path) -> None:
    """A table is created and one recreated: rows, children, views and triggers stay."""
    add_revision(own_scripts, ADD_A_TABLE)
    add_revision(own_scripts, RECREATE_A_TABLE, "102", "101")
    at("006").also(*CHILD, *LOG, VIEW, INDEX, TRIGGER).write(path)
    before = snapshot(path)
    outcome = prepare(path)
    after = snapshot(path)
    assert outcome.after == "102"
    assert "user_preferences" in after.rows
    kept = ("user_id", "encrypted_token", "expires_at", "created_at")
    for snap in (before, after):
        assert len(snap.rows["refresh_tokens"]) == 12
    assert sorted(str([row[c] for c in kept]) for row in before.rows["refresh_tokens"]) == sorted(
        str([row[c] for c in kept]) for row in after.rows["refresh_tokens"]
    )
    assert len(after.rows["op_child"]) == 12, "the recreation fired no cascade"
    assert rows(path, "PRAGMA foreign_key_check") == []
    assert ("view", "op_view") in after.others
    assert len(rows(path, "SELECT * FROM op_view")) == 12
    assert after.indexes["op_index"] == ("expires_at",)
    assert ("trigger", "op_trigger") in after.others
    assert len(after.rows["op_log"]) == 1, "the trigger fired on the rows that were copied"
    assert prepare(path).action is Action.NOTHING


def test_an_operator_index_on_a_lost_column_is_logged(
    own_scripts: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An index on a column that a recreation leaves out is dropped with a warning."""
    add_revision(own_scripts, RECREATE_A_TABLE)
    at("006").also("CREATE INDEX op_index ON refresh_tokens (updated_at)").write(path)
    assert prepare(path).after == "101"
    assert "op_index on refresh_tokens could not be created again" in caplog.text
    assert "op_index" not in snapshot(path).indexes


def test_an_index_that_a_revision_drops_is_not_restored(own_scripts: Path, path: Path) -> None:
    """Only operator objects are restored."""
    add_revision(own_scripts, sql_revision("DROP INDEX idx_audit_user_timestamp"))
    at("006").write(path)
    assert prepare(path).after == "101"
    assert "idx_audit_user_timestamp" not in snapshot(path).indexes


def test_the_first_example_is_downgraded(own_scripts: Path, path: Path) -> None:
    """A downgrade drops its table and keeps every other row."""
    add_revision(own_scripts, ADD_A_TABLE)
    at("010", "portable").write(path)
    before = snapshot(path)
    prepare(path)
    change = downgrade(path, "010")
    assert (change.before, change.after, change.steps) == ("101", "010", ("101",))
    invariants.same_content(before, snapshot(path))


def test_broken_references_from_before_stop_nothing(path: Path) -> None:
    """Orphans of an operator and a mismatched reference are no error of the migration."""
    for name, extra in (
        ("orphan.db", (*CHILD, "INSERT INTO op_child VALUES ('nobody')")),
        ("mismatch.db", (*LOG, "CREATE TABLE op_odd (s TEXT REFERENCES op_log (what))")),
    ):
        database = path.with_name(name)
        at("007").also(*extra).write(database)
        assert prepare(database).action is Action.UPGRADE


def test_grants_in_a_lost_recreation_are_backed_up_and_counted(path: Path) -> None:
    """Rows in a table with a temporary name are backed up as well."""
    shape = at("006")
    for name in shape.tables:
        if name != "refresh_tokens":
            shape = shape.also(f"DELETE FROM {name}")
    shape.also("ALTER TABLE refresh_tokens RENAME TO _alembic_tmp_refresh_tokens").write(path)
    outcome = prepare(path)
    assert outcome.backup is not None
    assert rows(path, "SELECT count(*) FROM refresh_tokens") == [(12,)]
