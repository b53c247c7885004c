"""What SQLite cannot check here is named and not called damage."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.integrity import Checked, check_file
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backup_check import check_backup
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.rehearse import rehearse
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.settings import Settings
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
