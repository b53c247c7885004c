"""Each check of the content finds its problem and the command that fixes it."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.crypto.keyfile import key_path
from nextcloud_mcp_server.maintenance.doctor import companions
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.maintenance.doctor.conftest import Ask, worst
from tests.support.contents import KEY, OTHER_KEY
from tests.support.files import flip
from tests.support.invariants import HEAD

RENAME = "ALTER TABLE refresh_tokens RENAME COLUMN provisioning_client_id TO qrovisioning_client_id"

AS_TEXT = (
    "UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS TEXT) "
    "WHERE user_id = 'alice'"
)
CHILD = (
    "CREATE TABLE child (u TEXT REFERENCES refresh_tokens (user_id)); "
    "INSERT INTO child VALUES ('nobody')"
)

EMPTY_CHILD = "CREATE TABLE child (user_id TEXT REFERENCES refresh_tokens (user_id))"
ODD_CHILD = "CREATE TABLE child (s TEXT REFERENCES refresh_tokens (scopes))"
IGNORING = "CREATE TRIGGER op_ignore BEFORE INSERT ON refresh_tokens BEGIN SELECT RAISE(IGNORE);END"
LEFT = "CREATE TABLE _replaced_batch_ocr_jobs AS SELECT 1"
WEBHOOKS = load_history().structure("009").tables["registered_webhooks"].sql
WEBHOOK = f"{WEBHOOKS}; INSERT INTO registered_webhooks VALUES (1, 2, 'preset', 3)"
NO_TOKEN = "UPDATE refresh_tokens SET encrypted_token = x'00' WHERE user_id = 'alice'"
FUTURE = "UPDATE refresh_tokens SET created_at = 4000000000 WHERE user_id = 'alice'"
PLAIN = "UPDATE oauth_sessions SET idp_access_token = 'plain'"
OTHER_COLUMN = "ALTER TABLE alembic_version RENAME COLUMN version_num TO version"

#: What is done to a healthy database; the check that finds it, how bad it is, what it says,
#: and whether a repair mends it.
PROBLEMS = [
    ("DROP INDEX idx_browser_sessions_user", "structure", "warning", "it lacks index idx_b", True),
    ("ALTER TABLE app_passwords DROP COLUMN scopes", "structure", "warning", "lacks column", True),
    ("DROP TABLE document_paths", "structure", "warning", "it lacks table document_paths", True),
    (RENAME, "state", "error", "inconsistent", False),
    ("DROP TABLE refresh_tokens", "state", "error", "inconsistent", False),
    ("INSERT INTO alembic_version VALUES ('003')", "version", "error", "holds 003 and", True),
    (
        "INSERT INTO alembic_version VALUES ('')",
        "version",
        "warning",
        "holds 2 rows for one revision",
        True,
    ),
    ("DELETE FROM alembic_version", "version", "warning", "no revision is recorded", True),
    ("DROP TABLE alembic_version", "version", "note", "there is no version table", True),
    ("UPDATE alembic_version SET version_num = '999'", "version", "error", "records 999", False),
    (
        "UPDATE alembic_version SET version_num = '9'",
        "version",
        "error",
        "holds the text '9', and 009 was probably meant",
        True,
    ),
    (OTHER_COLUMN, "version", "error", "no column version_num", True),
    ("UPDATE alembic_version SET version_num = '010'", "state", "note", "behind", False),
    ("CREATE TABLE _alembic_tmp_oauth_sessions (a)", "leftover tables", "note", "is empty", True),
    (WEBHOOKS, "leftover tables", "note", "although revision 010 drops it", True),
    (WEBHOOK, "leftover tables", "warning", "revision 010 drops it; its 1 row will", True),
    (LEFT, "leftover tables", "warning", "holds 1 row", False),
    ("PRAGMA journal_mode=DELETE", "journal", "note", "its mode is delete", True),
    (AS_TEXT, "format", "note", "holds 1 secret as TEXT", False),
    (PLAIN, "keys", "note", "in plain text", False),
    (NO_TOKEN, "format", "warning", "holds 1 value that no key has encrypted", False),
    (NO_TOKEN, "keys", "warning", "opens 1 of 22 secrets (1 in refresh_tokens)", False),
    (FUTURE, "clock", "warning", "refresh_tokens has a row from the future", False),
    (EMPTY_CHILD, "foreign keys", "ok", "every reference", False),
    (CHILD, "foreign keys", "warning", "1 reference of child to rows that do not exist", False),
    (ODD_CHILD, "foreign keys", "note", "foreign key mismatch", False),
    (ODD_CHILD, "structure", "error", "refresh_tokens was changed so that", False),
    (IGNORING, "triggers", "warning", "the trigger op_ignore on refresh_tokens", False),
]


@pytest.mark.parametrize(("statements", "check", "level", "said", "mendable"), PROBLEMS)
def test_a_problem_is_found(  # noqa: PLR0917 - the columns of the table
    statements: str, check: str, level: str, said: str, mendable: bool, path: Path, ask: Ask
) -> None:
    """What is done to the database is found by its check, with its level and its cure."""
    execute(path, *statements.split("; "))
    found = ask(check)
    [finding] = [f for f in found if said in f.message]
    assert (finding.level, finding.fixable) == (Level(level), mendable)
    if mendable:
        assert finding.command == f"nextcloud-mcp-server db repair -d {path}"
    if check != "keys":
        assert not [f for f in found if f.level is Level.OK and level != "ok"]


def test_lost_grants_are_repaired_by_a_backup_alone(path: Path, ask: Ask) -> None:
    """If refresh_tokens is missing, the command restores the newest intact backup."""
    [backup] = companions.backups_of(path)
    execute(path, "DROP TABLE refresh_tokens")
    finding = worst(ask("state"))
    assert finding.command == f"nextcloud-mcp-server db restore --newest -d {path}"
    replaced = backup.rename(backup.with_name(backup.name.replace("-manual", "-replaced")))
    assert worst(ask("state")).command is None
    replaced.rename(backup).write_bytes(b"no database at all")
    assert worst(ask("state")).command is None


def test_a_damaged_index_can_be_repaired(path: Path, ask: Ask) -> None:
    """A damaged page of an index is not confused with one of a table."""
    flip(path, "idx_audit_user_timestamp")
    finding = worst(ask("integrity"))
    assert (finding.level, finding.fixable) == (Level.ERROR, True)
    assert "an index is damaged and its table is intact" in finding.message


def test_an_index_that_lacks_a_row_is_found_by_a_full_check(path: Path, ask: Ask) -> None:
    """quick_check does not find it; --full does, and a repair fixes it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        [(sql,)] = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'idx_audit_user_timestamp'"
        )
        query = "UPDATE sqlite_master SET sql = ? WHERE name = 'idx_audit_user_timestamp'"
        connection.execute(query, (f"{sql} WHERE id < 0",))
        connection.execute("PRAGMA schema_version=9999")
        connection.execute("PRAGMA writable_schema=RESET")
        connection.execute(
            "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'e', 'unindexed')"
        )
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(query, (sql,))
        connection.execute("PRAGMA schema_version=10000")
    assert [f.level for f in ask("integrity")] == [Level.OK]
    finding = worst(ask("integrity", full=True))
    assert (finding.level, finding.fixable) == (Level.ERROR, True)


def test_a_damaged_table_is_restored_and_not_repaired(path: Path, ask: Ask) -> None:
    """If rows are damaged, only a restore is offered."""
    path.chmod(0o644)
    flip(path, "refresh_tokens")
    finding = worst(ask("integrity"))
    assert (finding.level, finding.fixable) == (Level.ERROR, False)
    assert finding.command == f"nextcloud-mcp-server db restore --newest -d {path}"
    assert not worst(ask("permissions")).fixable


@pytest.mark.parametrize(
    ("settings", "level", "said"),
    [
        ({"keys": ()}, "error", "holds"),
        ({"keys": ("short",)}, "error", "not 44 characters"),
        ({"keys": (), "key_file": Path("/nowhere/key")}, "error", "cannot be read"),
        ({"keys": (KEY, OTHER_KEY)}, "note", "it is no longer needed here"),
    ],
)
def test_keys_that_do_not_fit(settings: dict[str, object], level: str, said: str, ask: Ask) -> None:
    """A missing, wrong, malformed or unneeded key is found."""
    worst(ask("keys", **settings), Level(level), said)


def test_a_wrong_key_is_an_error(ask: Ask) -> None:
    """It opens nothing, and the one that encrypts is missing."""
    found = ask("keys", keys=(OTHER_KEY,))
    errors = [one.message for one in found if one.level is Level.ERROR]
    assert ["no given key opens 22 of 22" in errors[0], "was not given" in errors[1]] == [
        True,
        True,
    ]


def test_each_key_is_reported_with_what_it_opens(ask: Ask) -> None:
    """Keys are listed by fingerprint, and the primary one encrypts, whatever their order."""
    lines = [f.message for f in ask("keys", keys=(OTHER_KEY, KEY))]
    assert any("needed for 0 of" in line and "no longer needed" in line for line in lines)
    assert any("needed for 22 of 22" in line and "encrypts new ones" in line for line in lines), (
        lines
    )


def test_a_key_beside_the_tokens_is_a_warning(path: Path, ask: Ask) -> None:
    """A copy of the folder would have both."""
    key_path(path).write_text(KEY)
    key_path(path).chmod(0o600)
    finding = worst(ask("keys", keys=()), Level.WARNING, "lies beside the tokens")
    assert finding.command == (
        f"mv {key_path(path)} DIR/ && export TOKEN_ENCRYPTION_KEY_FILE=DIR/tokens.db.key"
    )


def test_damage_without_a_backup_has_the_command_that_reads_what_is_left(
    path: Path, ask: Ask
) -> None:
    """There is nothing to restore, so the line says it and has sqlite3's `.recover`."""
    [saved] = companions.backups_of(path)
    flip(path, "audit_logs")
    [finding] = ask("integrity")
    assert finding.command == f"nextcloud-mcp-server db restore --newest -d {path}"
    saved.unlink()
    [finding] = ask("integrity")
    assert "; there is no intact backup beside it to restore" in finding.message
    assert finding.command is not None
    subprocess.run(finding.command, shell=True, check=True)  # noqa: S602 - as a person types it
    recovered = path.with_name("tokens.db.recovered")
    assert recovered.stat().st_mode & 0o777 == 0o600
    assert diagnose(Settings(recovered, (KEY,))).worst is not Level.ERROR


def test_the_header_of_a_damaged_file_without_a_backup(path: Path, ask: Ask) -> None:
    """What SQLite cannot open at all has the same command, in both checks."""
    companions.backups_of(path)[0].unlink()
    raw = path.read_bytes()
    path.write_bytes(raw[:100] + b"\xff" * 300 + raw[400:])
    for check in ("state", "integrity"):
        [finding] = ask(check)
        assert "; there is no intact backup beside it to restore" in finding.message
        assert '".recover" | sqlite3 ' in str(finding.command)


def test_a_lost_table_without_a_backup(path: Path, ask: Ask) -> None:
    """No restore is offered that would find nothing to restore."""
    companions.backups_of(path)[0].unlink()
    execute(path, "DROP TABLE refresh_tokens")
    [finding] = ask("state")
    assert finding.command is None
    assert "there is no intact backup beside it to restore" in finding.message
    assert "--newest" not in finding.message


def test_the_revision_is_heads(ask: Ask) -> None:
    """A healthy database has its revision in the findings."""
    assert ask("state")[0].message == f"at-head, {HEAD}"
    assert ask("version")[0].message == f"it records {HEAD}"
