"""Each check finds what it is for, and says what mends it."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import files, mounts
from nextcloud_mcp_server.backends.sqlite.guard import guard
from nextcloud_mcp_server.backends.sqlite.inuse import hold
from nextcloud_mcp_server.doctor import around, place
from nextcloud_mcp_server.doctor.diagnosis import diagnose
from nextcloud_mcp_server.doctor.finding import Level
from nextcloud_mcp_server.keyfile import key_path
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.doctor.conftest import Ask, worst
from tests.support.contents import KEY, OTHER_KEY
from tests.support.nobody import as_nobody, open_folder
from tests.support.promises import HEAD

RENAME = "ALTER TABLE refresh_tokens RENAME COLUMN provisioning_client_id TO qrovisioning_client_id"

AS_TEXT = (
    "UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS TEXT) "
    "WHERE user_id = 'alice'"
)
CHILD = (
    "CREATE TABLE child (u TEXT REFERENCES refresh_tokens (user_id)); "
    "INSERT INTO child VALUES ('nobody')"
)

#: What is done to a healthy database; the check that finds it, how bad it is, what it says,
#: and whether a repair mends it.
ILLS = [
    ("DROP INDEX idx_browser_sessions_user", "structure", "warning", "it lacks index idx_b", True),
    ("ALTER TABLE app_passwords DROP COLUMN scopes", "structure", "warning", "lacks column", True),
    ("DROP TABLE document_paths", "structure", "warning", "it lacks table document_paths", True),
    (RENAME, "structure", "error", "qrovisioning_client_id is provisioning_client_id", True),
    (RENAME, "state", "error", "inconsistent", True),
    ("DROP TABLE refresh_tokens", "state", "error", "inconsistent", False),
    ("INSERT INTO alembic_version VALUES ('003')", "version", "error", "holds 003 and", True),
    ("INSERT INTO alembic_version VALUES ('')", "version", "warning", "it holds 2 rows", True),
    ("DELETE FROM alembic_version", "version", "warning", "no revision is recorded", True),
    ("DROP TABLE alembic_version", "version", "note", "there is no version table", True),
    ("UPDATE alembic_version SET version_num = '999'", "version", "error", "records 999", False),
    ("UPDATE alembic_version SET version_num = '9'", "version", "error", "records 9", True),
    (
        "ALTER TABLE alembic_version RENAME COLUMN version_num TO version",
        "version",
        "error",
        "no column version_num",
        True,
    ),
    ("UPDATE alembic_version SET version_num = '010'", "state", "note", "behind", False),
    ("CREATE TABLE _alembic_tmp_oauth_sessions (a)", "leftover tables", "note", "is empty", True),
    (
        "CREATE TABLE _replaced_batch_ocr_jobs AS SELECT 1",
        "leftover tables",
        "warning",
        "holds 1 row",
        False,
    ),
    ("PRAGMA journal_mode=DELETE", "journal", "note", "its mode is delete", True),
    (
        AS_TEXT,
        "format",
        "note",
        "holds 1 secret as TEXT",
        False,
    ),
    (
        "UPDATE oauth_sessions SET idp_access_token = 'plain'",
        "format",
        "note",
        "in plain text",
        False,
    ),
    (
        "UPDATE refresh_tokens SET encrypted_token = x'00' WHERE user_id = 'alice'",
        "format",
        "warning",
        "holds 1 value that no key has sealed",
        False,
    ),
    (
        "UPDATE refresh_tokens SET encrypted_token = x'00' WHERE user_id = 'alice'",
        "keys",
        "warning",
        "cannot be opened (1 in refresh_tokens)",
        False,
    ),
    (
        "UPDATE refresh_tokens SET created_at = 4000000000 WHERE user_id = 'alice'",
        "clock",
        "warning",
        "refresh_tokens has a row from the future",
        False,
    ),
    (
        "CREATE TABLE child (user_id TEXT REFERENCES refresh_tokens (user_id))",
        "foreign keys",
        "ok",
        "every reference",
        False,
    ),
    (
        CHILD,
        "foreign keys",
        "warning",
        "1 reference of child to rows that are gone",
        False,
    ),
    (
        "CREATE TABLE child (s TEXT REFERENCES refresh_tokens (scopes))",
        "foreign keys",
        "note",
        "foreign key mismatch",
        False,
    ),
]


@pytest.mark.parametrize(("statements", "check", "level", "said", "mendable"), ILLS)
def test_an_ill_is_found(  # noqa: PLR0917 - the columns of the table
    statements: str, check: str, level: str, said: str, mendable: bool, path: Path, ask: Ask
) -> None:
    """What is done to the database is found by its check, with its level and its cure."""
    execute(path, *statements.split("; "))
    found = ask(check)
    [finding] = [f for f in found if said in f.message]
    assert (finding.level, finding.mendable) == (Level(level), mendable)
    if mendable:
        assert finding.mend == f"nextcloud-mcp-server db repair -d {path}"
    if check != "keys":
        assert not [f for f in found if f.level is Level.OK and level != "ok"]


def test_lost_grants_are_mended_by_a_backup_alone(path: Path, ask: Ask) -> None:
    """Where refresh_tokens is gone, the command is to restore the newest good backup."""
    [backup] = around.backups_of(path)
    execute(path, "DROP TABLE refresh_tokens")
    finding = worst(ask("state"))
    assert finding.mend == f"nextcloud-mcp-server db restore --newest -d {path}"
    replaced = backup.rename(backup.with_name(backup.name.replace("-manual", "-replaced")))
    assert worst(ask("state")).mend is None
    replaced.rename(backup).write_bytes(b"no database at all")
    assert worst(ask("state")).mend is None


def test_a_damaged_index_can_be_mended(path: Path, ask: Ask) -> None:
    """A hurt page of an index is told apart from a hurt page of a table."""
    _flip(path, "idx_audit_user_timestamp")
    finding = worst(ask("integrity"))
    assert (finding.level, finding.mendable) == (Level.ERROR, True)
    assert "an index is damaged and its table is whole" in finding.message


def test_an_index_that_lacks_a_row_is_found_by_a_full_check(path: Path, ask: Ask) -> None:
    """quick_check passes over it; with --full it is found, and can be mended."""
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
    assert (finding.level, finding.mendable) == (Level.ERROR, True)


def test_a_damaged_table_is_restored_and_not_mended(path: Path, ask: Ask) -> None:
    """Where rows are hurt, only a backup helps, and nothing else is promised either."""
    path.chmod(0o644)
    _flip(path, "refresh_tokens")
    finding = worst(ask("integrity"))
    assert (finding.level, finding.mendable) == (Level.ERROR, False)
    assert finding.mend == f"nextcloud-mcp-server db restore --newest -d {path}"
    assert not worst(ask("permissions")).mendable


def _flip(path: Path, name: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,))
    raw = bytearray(path.read_bytes())
    raw[(page - 1) * page_size + 8] ^= 0xFF
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("settings", "level", "said"),
    [
        ({"keys": ()}, "error", "holds"),
        ({"keys": (OTHER_KEY,)}, "error", "cannot be opened"),
        ({"keys": ("short",)}, "error", "not 44 characters"),
        ({"keys": (), "key_file": Path("/nowhere/key")}, "error", "cannot be read"),
        ({"keys": (KEY, OTHER_KEY)}, "note", "it is not needed here any more"),
    ],
)
def test_keys_that_do_not_fit(settings: dict[str, object], level: str, said: str, ask: Ask) -> None:
    """No key, a wrong, malformed, missing or useless one is told."""
    finding = worst(ask("keys", **settings))
    assert finding.level is Level(level)
    assert said in finding.message


def test_each_key_is_told_with_what_it_opens(ask: Ask) -> None:
    """A key is known by its fingerprint, and the first one seals."""
    lines = [f.message for f in ask("keys", keys=(OTHER_KEY, KEY))]
    assert any("opens 0 of" in line and "seals new ones" in line for line in lines)
    assert any(line.split(" opens ")[1].startswith("19 of 19") for line in lines), lines


def test_a_key_beside_the_tokens_is_a_warning(path: Path, ask: Ask) -> None:
    """Whoever copies the folder has both."""
    key_path(path).write_text(KEY)
    key_path(path).chmod(0o600)
    finding = worst(ask("keys", keys=()))
    assert finding.level is Level.WARNING
    assert "lies beside the tokens" in finding.message


@pytest.mark.parametrize("name", ["tokens.db", "tokens.db.key", "backup"])
def test_what_others_may_read_is_told(name: str, path: Path, ask: Ask) -> None:
    """The database, the key and the backups are nobody else's business."""
    file = around.backups_of(path)[0] if name == "backup" else path.with_name(name)
    file.touch()
    file.chmod(0o604)
    finding = worst(ask("permissions"))
    assert (finding.level, finding.mendable) == (Level.WARNING, True)
    assert finding.mend == f"chmod 600 {file}"
    file.chmod(0o640)
    assert worst(ask("permissions")).level is Level.NOTE


def test_a_folder_where_anybody_may_write_is_told(path: Path, ask: Ask) -> None:
    """Who may rename in the folder may replace the database, but not in a sticky one."""
    path.parent.chmod(0o777)
    assert "may replace" in worst(ask("permissions")).message
    path.parent.chmod(0o1777)
    assert [f.level for f in ask("permissions")] == [Level.OK]


def test_a_second_name_is_told(path: Path, ask: Ask) -> None:
    """A hard link has another journal, and so is another database to SQLite."""
    os.link(path, path.with_name("second.db"))
    assert "2 names" in ask("file")[0].message


def test_the_settings_that_are_not_looked_at_are_told(path: Path, ask: Ask) -> None:
    """A variable that another one overrules misleads its reader."""
    found = ask("configuration", overruled="/other.db", key_file=path, source="DATABASE_URL")
    assert [f.mend for f in found] == ["unset TOKEN_STORAGE_DB", "unset TOKEN_ENCRYPTION_KEY_FILE"]
    [fallback] = ask("configuration", fallback_from=Path("/app/data/tokens.db"))
    assert (fallback.level, fallback.mend) == (
        Level.WARNING,
        f"export TOKEN_STORAGE_DB={path}",
    )


def test_who_holds_the_lock_is_told(path: Path, ask: Ask) -> None:
    """While somebody migrates, the doctor says who, and does not wait."""
    with guard(path, 1) as held:
        held.announce("having a test")
        finding = worst(ask("lock"))
    assert finding.level is Level.NOTE
    assert f"process {os.getpid()}" in finding.message
    assert "having a test" in finding.message
    assert [f.level for f in ask("lock")] == [Level.OK]


def test_a_running_server_is_told(path: Path, ask: Ask) -> None:
    """A server that has the database open is no fault, and good to know."""
    open_store = hold(path)
    assert open_store is not None
    assert ask("server")[0].message == f"one is running on it (process {os.getpid()})"
    open_store.release()
    assert ask("server")[0].message == "none is running on it"


def test_backups_are_checked(path: Path, ask: Ask) -> None:
    """No backup, an old one, one that is not what its manifest says."""
    [backup] = around.backups_of(path)
    month = time.time() - 40 * 86400
    os.utime(backup, (month, month))
    assert "40 days old" in worst(ask("backups")).message
    raw = bytearray(backup.read_bytes())
    raw[-1] ^= 0xFF
    backup.write_bytes(raw)
    finding = worst(ask("backups"))
    assert finding.level is Level.WARNING
    assert "not the file that its manifest describes" in finding.message
    backup.unlink()
    assert worst(ask("backups")).mend == f"nextcloud-mcp-server db backup -d {path}"


def test_half_made_files_are_found_when_they_are_old(path: Path, ask: Ask) -> None:
    """What is younger than an hour may be being made."""
    partial = path.with_name(f".{path.name}.backup-x.1234.partial")
    partial.touch()
    assert [f.level for f in ask("half-made files")] == [Level.OK]
    hours = time.time() - 2 * around.ABANDONED_AFTER
    os.utime(partial, (hours, hours))
    assert worst(ask("half-made files")).mendable


def test_a_clock_before_this_program_is_wrong(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that lost its time would take every token for fresh."""
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert worst(ask("clock")).level is Level.ERROR


def test_too_little_space_is_told(path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a migration needs the space it is an error, otherwise a warning."""
    monkeypatch.setattr(place, "free_bytes", lambda _: 1000)
    assert worst(ask("space")).level is Level.WARNING
    execute(path, "UPDATE alembic_version SET version_num = '009'")
    assert worst(ask("space")).level is Level.ERROR
    monkeypatch.setattr(place, "free_bytes", lambda _: None)
    assert worst(ask("space")).level is Level.NOTE


def test_space_is_that_of_the_folder_that_will_hold_it(tmp_path: Path) -> None:
    """Where the folder is not there yet, the space above it is told, and nothing is made."""
    found = diagnose(Settings(tmp_path / "not" / "yet" / "tokens.db")).findings
    [said] = [f for f in found if f.check == "space"]
    assert said.level is Level.OK
    assert " are free; an upgrade takes " in said.message
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_told(
    path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At head it is a warning; where something has to be done, an error; a repair is no cure."""
    monkeypatch.setattr(files, "unwritable", lambda _: "the disk is a compact disc")
    assert worst(ask("writable")).level is Level.WARNING
    execute(path, "UPDATE alembic_version SET version_num = '009'", "DROP TABLE app_passwords")
    assert worst(ask("writable")).level is Level.ERROR
    assert not worst(ask("structure")).mendable


def test_a_folder_that_cannot_be_made_is_told() -> None:
    """Where the folder is not there, it is said whether this user can make it, and where not."""
    code = """
for name in sys.argv[1:]:
    found = diagnose(settings.Settings(Path(name)))
    print(*[f"{f.level.value} {f.message}" for f in found.findings if f.check == "writable"])
"""
    with open_folder() as folder:
        closed, opened = folder / "nope" / "more" / "x.db", folder / "open" / "nope" / "x.db"
        opened.parent.parent.mkdir()
        opened.parent.parent.chmod(0o777)
        said = as_nobody(code, closed, opened).splitlines()
    assert said == [
        f"error its folder {closed.parent} is not there, and this user cannot make it in {folder}",
        "ok file and folder can be written",
    ]


def test_no_start_is_promised_that_cannot_write() -> None:
    """Where a start can make neither folder nor file, no check says that it will."""
    code = """
for name in sys.argv[1:]:
    found = diagnose(settings.Settings(Path(name))).findings
    print(*[f.message for f in found if f.check == "file"])
    print(*[f.check for f in found if f.level == "error"])
    print(*[f.check for f in found if "a start makes" in f.message or f.mend])
"""
    with open_folder() as folder:
        inside, far, opened = folder / "x.db", folder / "nope" / "x.db", folder / "open" / "x.db"
        opened.parent.mkdir()
        opened.parent.chmod(0o777)
        said = as_nobody(code, inside, far, opened).splitlines()
    assert said == [
        f"there is no file {inside}, and a start cannot make it (see writable)",
        "writable",
        "",
        f"there is no file {far}, and a start cannot make it (see writable)",
        "writable",
        "",
        f"there is no file {opened}; a start makes it",
        "",
        "permissions file state keys",
    ]


def test_no_upgrade_is_offered_that_cannot_write(
    path: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is behind and closed gets no command that its user cannot run."""
    execute(path, "UPDATE alembic_version SET version_num = '010'")
    assert worst(ask("state")).mend == f"nextcloud-mcp-server db upgrade -d {path}"
    monkeypatch.setattr(files, "unwritable", lambda _: "the disk is a compact disc")
    finding = worst(ask("state"))
    assert finding.mend is None
    assert finding.message.endswith(", where it may write (see writable)")


def test_a_network_file_system_is_told(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared memory does not reach over a network."""
    monkeypatch.setattr(mounts, "on_network", lambda _: True)
    assert worst(ask("file system")).level is Level.WARNING


def test_the_revision_is_heads(ask: Ask) -> None:
    """The facts of a healthy database are said too."""
    assert ask("state")[0].message == f"at head, {HEAD}"
    assert ask("version")[0].message == f"it records {HEAD}"
