"""A table of secrets that has vanished is not silently made again, empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backups import newest_backup
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.repair import repair
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute, rows
from tests.support import invariants
from tests.support.by_path import inspect, prepare
from tests.support.contents import KEY
from tests.support.errors import refused
from tests.support.revisions import HEAD
from tests.support.shapes import at

#: By what is named: how it was lost.
LOST = {
    **{table: f"DROP TABLE {table}" for table, _ in ENCRYPTED if table != "refresh_tokens"},
    "app_passwords, where secrets are stored (op_old has the same columns)": (
        "ALTER TABLE app_passwords RENAME TO op_old"
    ),
    "oauth_clients.encrypted_registration_access_token": (
        "ALTER TABLE oauth_clients DROP COLUMN encrypted_registration_access_token"
    ),
}


@pytest.fixture
def path(path: Path) -> Path:
    """Return a database at head with rows in every table."""
    at("010").write(path)
    path.chmod(0o600)
    prepare(path)
    for backup in path.parent.glob("*.backup-*"):
        backup.unlink()
    return path


@pytest.mark.parametrize("name", LOST)
def test_a_start_is_refused_and_the_doctor_reports_an_error(name: str, path: Path) -> None:
    """What is lost is named, nothing changes, and every later start and check says it again."""
    back_up(path)
    execute(path, LOST[name])
    for _ in range(2):
        with invariants.unchanged(path):
            error = refused(lambda: prepare(path))
        assert error.code == "inconsistent"
        assert f"may have lost secrets: it lacks {name}" in error.message
        assert "If there were any, restore a backup: " in error.remedy
        assert "db restore --newest" in error.remedy
    assert not inspect(path).ready
    found = diagnose(Settings(path, (KEY,)))
    [finding] = [f for f in found.findings if f.check == "state"]
    assert (finding.level, finding.fixable) == (Level.ERROR, True)
    assert finding.command == f"nextcloud-mcp-server db restore --newest -d {path}"


@pytest.mark.parametrize("version", ["DROP TABLE alembic_version", "DELETE FROM alembic_version"])
def test_without_a_recorded_revision_it_is_lost_too(version: str, path: Path) -> None:
    """The journal proves that this program had made the file complete."""
    execute(path, "DROP TABLE app_passwords")
    execute(path, version)
    with invariants.unchanged(path):
        error = refused(lambda: prepare(path))
    assert (error.code, "app_passwords" in error.message) == ("inconsistent", True)


def test_a_backup_brings_the_rows_back(path: Path) -> None:
    """The remedy restores the table with its rows."""
    back_up(path)
    count = "SELECT count(*) FROM app_passwords"
    before = rows(path, count)
    execute(path, "DROP TABLE app_passwords")
    restore(preview_restore(path, newest_backup(path).backup))
    prepare(path)
    assert rows(path, count) == before


def test_a_repair_goes_on_without_them(path: Path) -> None:
    """Without a backup the doctor offers a repair, which adds the table, empty."""
    execute(path, "DROP TABLE app_passwords")
    [finding] = [f for f in diagnose(Settings(path, (KEY,))).findings if f.check == "state"]
    assert finding.command == f"nextcloud-mcp-server db repair -d {path}"
    done = repair(Settings(path, (KEY,)))
    assert "added table app_passwords, index idx_app_passwords_updated" in done.done
    assert inspect(path).ready
    assert rows(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_rows_that_were_deleted_are_somebodys_decision(path: Path) -> None:
    """An empty table of secrets is accepted."""
    execute(path, "DELETE FROM app_passwords")
    prepare(path)
    assert inspect(path).ready


def test_a_file_of_an_old_release_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that was stamped by hand may never have had the table: it is added and named."""
    path = tmp_path / "tokens.db"
    at("009").without("app_passwords").write(path)
    prepare(path)
    assert "lacks app_passwords, where secrets are stored" in caplog.text
    assert inspect(path).ready


def test_a_table_that_was_empty_in_every_backup_is_no_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If every backup says that there were no rows, nothing is warned of; else it is."""
    for rows_before in (0, 1):
        path = tmp_path / str(rows_before) / "tokens.db"
        path.parent.mkdir()
        at("009").write(path)
        if not rows_before:
            execute(path, "DELETE FROM app_passwords")
        back_up(path)
        execute(path, "DELETE FROM app_passwords")
        back_up(path)
        execute(path, "DROP TABLE app_passwords")
        caplog.clear()
        prepare(path)
        warned = "lacks app_passwords, where secrets are stored" in caplog.text
        assert warned == bool(rows_before)
        assert inspect(path).ready


def test_an_unversioned_file_never_had_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file from before the first recorded revision is upgraded without a warning."""
    path = tmp_path / "tokens.db"
    at("001").unversioned().write(path)
    prepare(path)
    assert "secrets are stored" not in caplog.text
