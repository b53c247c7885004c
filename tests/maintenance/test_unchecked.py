"""What SQLite cannot check here is named and not called damage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.integrity import Checked, check_file
from nextcloud_mcp_server.backends.sqlite.manifest import read_manifest
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backup_check import check_backup
from nextcloud_mcp_server.maintenance.backups import list_backups, newest_backup
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.rehearse import rehearse
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute
from tests.maintenance.conftest import run_repair
from tests.support.by_path import inspect, prepare
from tests.support.contents import KEY
from tests.support.errors import refused
from tests.support.files import flip
from tests.support.operator_objects import FOREIGN, add_foreign
from tests.support.shapes import at


@pytest.fixture(params=FOREIGN)
def path(path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a database of an old release with an object that SQLite cannot use here."""
    at("006").write(path)
    path.chmod(0o600)
    add_foreign(path, FOREIGN[request.param])
    return path


def test_every_command_takes_it(path: Path) -> None:
    """Upgrade, backup, restore and repair work, and no check reports damage."""
    rehearse(path)
    backup = back_up(path)
    prepare(path)
    assert inspect(path).ready
    restore(preview_restore(path, check_backup(backup, path).path))
    run_repair(path)
    prepare(path)
    assert inspect(path).ready
    found = diagnose(Settings(path, (KEY,)), full=True)
    assert not [finding for finding in found.findings if finding.level is Level.ERROR]


def test_damage_beside_it_is_still_found(path: Path) -> None:
    """Damage of a table that can be checked stops an upgrade, a backup and a repair."""
    flip(path, "audit_logs")
    assert check_file(path).damage
    for command in (prepare, back_up, run_repair):
        assert refused(partial(command, path)).code == "corrupt"


def test_it_is_named(tmp_path: Path) -> None:
    """The table and the missing collation are named by the check and by the doctor."""
    path = tmp_path / "tokens.db"
    at("006").write(path)
    assert check_file(path) == Checked()
    add_foreign(path, FOREIGN["a collation of a key"])
    missing = "op_names (no such collation sequence: de)"
    assert check_file(path) == Checked(unchecked=(missing,))
    found = diagnose(Settings(path, (KEY,)))
    said = [f.message for f in found.findings if f.level is Level.UNKNOWN]
    assert said == [f"not checked: {missing}"]


def test_it_is_logged_by_an_upgrade(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upgrade warns of each table that it could not check."""
    path = tmp_path / "tokens.db"
    at("006").write(path)
    add_foreign(path, FOREIGN["a collation of an index"])
    prepare(path)
    assert "cannot be checked: op_names" in caplog.text


@pytest.mark.parametrize("index", ["user_id COLLATE de", "encrypted_token COLLATE de"])
def test_rows_behind_a_foreign_index_are_counted(index: str, tmp_path: Path) -> None:
    """An index that SQLite cannot use here hides neither rows nor secrets of its table."""
    path = tmp_path / "tokens.db"
    at("010").write(path)
    path.chmod(0o600)
    prepare(path)
    before = check_backup(back_up(path), path)
    add_foreign(path, (f"CREATE INDEX op_index ON refresh_tokens ({index})",))
    backup = check_backup(back_up(path), path)
    manifest = read_manifest(backup.path)
    assert manifest is not None
    assert manifest.rows == backup.rows == before.rows
    assert backup.rows["refresh_tokens"] > 0
    assert backup.secrets == before.secrets
    assert "DROP INDEX" in backup.unusable
    # The newest that a start accepts is restored, and the list agrees.
    newest = newest_backup(path)
    assert (newest.backup.path, [one.path for one in newest.skipped]) == (
        before.path,
        [backup.path],
    )
    listed = {one.path: one.status for one in list_backups(path, verify=True)}
    assert (listed[backup.path], listed[before.path]) == ("unusable", "ok")
    findings = diagnose(Settings(path, (KEY,))).findings
    [finding] = [one for one in findings if one.check == "structure"]
    assert 'DROP INDEX "op_index"' in finding.message
    assert finding.command is None
    # A backup is also restored by its path, with all its rows.
    restore(preview_restore(path, backup))
    execute(path, "DROP INDEX op_index")
    prepare(path)
    assert check_backup(back_up(path), path).rows["refresh_tokens"] == before.rows["refresh_tokens"]


@pytest.mark.parametrize(
    ("values", "definition"),
    [
        ("(NULL)", "CREATE TABLE op_values (value NOT NULL)"),
        ("('text')", "CREATE TABLE op_values (value INTEGER) STRICT"),
        ("(-1)", "CREATE TABLE op_values (value CHECK (value > 0))"),
    ],
)
def test_a_value_that_its_table_forbids_is_no_damage(
    values: str, definition: str, tmp_path: Path
) -> None:
    """SQLite's check reports it beside the pages; the pages are sound."""
    path = tmp_path / "tokens.db"
    prepare(path)
    add_foreign(
        path,
        (
            "CREATE TABLE op_values (value)",
            f"INSERT INTO op_values VALUES {values}",
            "PRAGMA writable_schema=ON",
            f"UPDATE sqlite_master SET sql = '{definition}' WHERE name = 'op_values'",
        ),
    )
    assert check_file(path, "integrity_check").damage == ()
    back_up(path)
