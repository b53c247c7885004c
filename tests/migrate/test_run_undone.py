"""A migration that fails changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import alter, backup, backup_files
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import alembic_commands
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrate.structures import write_structures
from nextcloud_mcp_server.schema.history import load_history
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.errors import refused
from tests.support.files import names
from tests.support.operator_objects import CHILD, LOG, SWEEPER, VIEW
from tests.support.scripts import add_revision, sql_revision
from tests.support.shapes import at
from tests.support.snapshot import snapshot

RAISES = """
def upgrade() -> None:
    op.execute("CREATE TABLE half (id INTEGER PRIMARY KEY)")
    op.execute("UPDATE refresh_tokens SET scopes = 'changed'")
    if op.get_bind().exec_driver_sql("SELECT count(*) FROM refresh_tokens").scalar():
        raise RuntimeError("the sky is falling")


def downgrade() -> None:
    pass
"""

#: Broken revisions: the body, and a part of the message.
BROKEN: dict[str, tuple[str, str]] = {
    "raises": (RAISES, "failed in revision 101: the sky is falling"),
    "breaks a constraint": (
        sql_revision(
            "CREATE TABLE only_one (n INTEGER PRIMARY KEY)",
            "INSERT INTO only_one SELECT 1 FROM refresh_tokens",
        ),
        "failed in revision 101: UNIQUE constraint failed: only_one.n",
    ),
    "loses rows": (sql_revision("DELETE FROM audit_logs"), "audit_logs had 13 rows and has 0"),
    "loses one row": (
        sql_revision("DELETE FROM app_passwords WHERE user_id = 'alice'"),
        "app_passwords had 3 rows and has 2",
    ),
    "loses an operator's rows": (
        sql_revision("UPDATE app_passwords SET username = 'x'"),
        "op_log had 1 row and has 0",
    ),
    "breaks a reference": (
        sql_revision("UPDATE refresh_tokens SET user_id = user_id || 'x'"),
        "12 references to rows that are gone",
    ),
    "writes the version itself": (
        sql_revision("INSERT INTO alembic_version VALUES ('777')"),
        "the version table holds",
    ),
}


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize(("body", "part"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_migration_is_undone(
    body: str, part: str, mode: str, own_scripts: Path, path: Path
) -> None:
    """The revisions before it are undone too, the message names it, and no backup is left."""
    add_revision(own_scripts, body)
    at("007").also(*CHILD, *LOG, VIEW, SWEEPER).write(path, [f"journal_mode={mode}"])
    before, raw = snapshot(path), path.read_bytes()
    refused(lambda: prepare(path), "migration-failed", part)
    invariants.same_content(before, snapshot(path))
    assert snapshot(path).versions == ["007"]
    assert mode == "wal" or path.read_bytes() == raw
    assert names(path.parent) - {"tokens.db-wal", "tokens.db-shm"} == {
        "tokens.db",
        "tokens.db.lock",
    }


def test_a_migration_that_always_fails_is_refused_before_the_database_is_opened(
    own_scripts: Path, path: Path
) -> None:
    """A syntax error in a new migration is an error with its revision, and changes nothing."""
    at("007").write(path)
    before = invariants.disk(path)
    for body, part in (
        (sql_revision("CREATE TABEL x (a)"), 'near "TABEL"'),
        ("def upgrade( -> None:\n", "invalid syntax"),
        ("def upgrade() -> None:\n    op.no_such_thing()\n", "no_such_thing"),
    ):
        add_revision(own_scripts, body)
        error = refused(lambda: prepare(path), "migration-failed", "101")
        assert part in error.message
        invariants.untouched(before, invariants.disk(path))


def test_a_migration_that_causes_a_foreign_key_mismatch_is_refused(
    own_scripts: Path, path: Path
) -> None:
    """A recreated table must keep the key that others reference."""
    add_revision(
        own_scripts,
        sql_revision(
            "CREATE TABLE new AS SELECT * FROM app_passwords",
            "DROP TABLE app_passwords",
            "ALTER TABLE new RENAME TO app_passwords",
            "CREATE INDEX idx_app_passwords_updated ON app_passwords(updated_at)",
        ),
    )
    at("010", "portable").also(
        "CREATE TABLE op_child (user_id TEXT REFERENCES app_passwords (user_id))",
        "INSERT INTO op_child SELECT user_id FROM app_passwords",
    ).write(path)
    before = snapshot(path)
    refused(lambda: prepare(path), "migration-failed", "foreign key mismatch")
    invariants.same_content(before, snapshot(path))


def test_a_failing_downgrade_is_undone(own_scripts: Path, path: Path) -> None:
    """The error names the revision that failed."""
    body = (
        "def upgrade() -> None:\n    pass\n\n\ndef downgrade() -> None:\n    raise KeyError('no')\n"
    )
    add_revision(own_scripts, body)
    add_revision(own_scripts, sql_revision("CREATE TABLE later (a)"), "102", "101")
    write_structures()
    at("010", "portable").write(path)
    prepare(path)
    before = snapshot(path)
    refused(lambda: downgrade(path, "009"), "migration-failed", "in revision 101")
    invariants.same_content(before, snapshot(path))
    assert snapshot(path).versions == ["102"]


def test_failed_starts_keep_the_older_backups(own_scripts: Path, path: Path) -> None:
    """Eight failed starts leave no backup and prune none; a corrected revision then runs."""
    at("007").write(path)
    older = [backup.make_backup(path, backup_files.backup_path(path, "007")) for _ in range(3)]
    add_revision(own_scripts, RAISES)
    for _ in range(8):
        assert refused(lambda: prepare(path)).code == "migration-failed"
    assert backup_files.automatic_backups(path) == older
    add_revision(own_scripts, sql_revision("CREATE TABLE half (id INTEGER PRIMARY KEY)"))
    assert prepare(path).steps == ("008", "009", "010", "101")


def test_killed_starts_leave_few_backups(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start prunes the backups of the killed ones before it."""
    at("007").write(path)

    class Killed(BaseException):
        """An exception that the program does not catch."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(alembic_commands, "upgrade", die)
        for _ in range(9):
            with pytest.raises(Killed):
                prepare(path)
    assert len(backup_files.automatic_backups(path)) <= backup_files.KEEP + 1
    assert prepare(path).after == load_history().head
    assert len(backup_files.automatic_backups(path)) == backup_files.KEEP


def test_a_full_disk_is_disk_full(own_scripts: Path, path: Path) -> None:
    """The code is that of the disk, not of a failed migration, and everything is undone."""
    big = (
        "INSERT INTO op_big WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
        "WHERE i < 100) SELECT randomblob(100000) FROM n WHERE (SELECT count(*) FROM audit_logs)"
    )
    add_revision(
        own_scripts, sql_revision("PRAGMA max_page_count=200", "CREATE TABLE op_big (a)", big)
    )
    at("007").write(path)
    before = snapshot(path)
    assert refused(lambda: prepare(path)).code == "disk-full"
    invariants.same_content(before, snapshot(path))


def test_no_value_of_a_row_is_in_a_message_or_a_log(
    own_scripts: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The parameters of a failing statement may be secrets and are never repeated."""
    body = """
import sqlalchemy as sa


def upgrade() -> None:
    bind = op.get_bind()
    if not bind.exec_driver_sql("SELECT count(*) FROM refresh_tokens").scalar():
        return
    statement = sa.text("INSERT INTO refresh_tokens (user_id) VALUES (:user)")
    bind.execute(statement, {"user": "hunter2"})


def downgrade() -> None:
    pass
"""
    add_revision(own_scripts, body)
    at("007").write(path)
    with caplog.at_level(logging.DEBUG):
        error = refused(lambda: prepare(path))
    assert "NOT NULL constraint failed" in error.message
    chain: BaseException | None = error
    while chain is not None:
        assert "hunter2" not in str(chain)
        chain = chain.__cause__ or chain.__context__
    assert "hunter2" not in caplog.text


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _unnamed(*_: object) -> None:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("fail", "kind"), [(_interrupt, KeyboardInterrupt), (_unnamed, TokenStorageError)]
)
def test_any_exception_undoes_a_migration(
    fail: Callable[..., None],
    kind: type[BaseException],
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After Ctrl-C or an unexpected error the database is as before and the lock is free."""
    at("007").write(path)
    before = snapshot(path)
    with monkeypatch.context() as patch:
        patch.setattr(alter, "fill", fail)
        with pytest.raises(kind):
            prepare(path)
    invariants.same_content(before, snapshot(path))
    assert prepare(path, lock_timeout=0).action is Action.UPGRADE


@pytest.mark.parametrize(
    ("body", "message"),
    [("x = (", "'(' was never closed"), ("import no_such_module", "No module named"), ("1/0", "")],
)
def test_a_file_that_cannot_be_loaded_is_named(
    path: Path, own_scripts: Path, body: str, message: str
) -> None:
    """The error names this file: Alembic loads all files before one runs."""
    file = add_revision(own_scripts, sql_revision("SELECT 1"))
    write_structures()
    add_revision(own_scripts, body)
    error = refused(lambda: prepare(path))
    assert f"to 101 failed: {file.name} cannot be loaded: {message}" in error.message
    assert error.remedy.startswith("The database is an empty file. ")
    assert path.stat().st_size == 0
    add_revision(own_scripts, sql_revision("SELECT 1"))
    assert prepare(path).action is Action.CREATE
    add_revision(own_scripts, body)
    assert file.name in refused(lambda: downgrade(path, "001")).message
    assert refused(lambda: downgrade(path, "001")).remedy.startswith("The database is as it was. ")


def test_a_new_file_that_cannot_be_loaded_is_named(path: Path, own_scripts: Path) -> None:
    """If its structure is not known yet, no file is created."""
    file = add_revision(own_scripts, "import no_such_module")
    error = refused(lambda: prepare(path))
    assert f"{file.name} cannot be loaded: No module named 'no_such_module'" in error.message
    assert names(path.parent) == set()
