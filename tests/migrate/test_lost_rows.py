"""A missing table that a backup has rows of is not made again in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.backup_files import discard, find_backups
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.repair import repair
from nextcloud_mcp_server.maintenance.restore import restore
from nextcloud_mcp_server.maintenance.restore_preview import preview_restore
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import execute, rows
from tests.support.by_path import inspect, prepare
from tests.support.contents import KEY
from tests.support.shapes import at

TABLES = ("oauth_sessions", "browser_sessions", "audit_logs")


@pytest.fixture
def path(path: Path) -> Path:
    """Return a database at head with rows in every table, and no backup."""
    at("010").write(path)
    path.chmod(0o600)
    prepare(path)
    for one in find_backups(path):
        discard(one.path)
    return path


def _count(path: Path, table: str) -> int:
    [(number,)] = rows(path, f"SELECT count(*) FROM {table}")
    return int(number)


def _errors(path: Path) -> list[Finding]:
    found = diagnose(Settings(path, (KEY,))).findings
    return [f for f in found if f.check == "backups" and f.level is Level.ERROR]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("way", ["start", "repair"])
def test_a_table_with_rows_in_a_backup_is_named(
    table: str, way: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning has the number of rows, the backup, and a command that brings them back."""
    made, number = back_up(path), _count(path, table)
    assert number
    execute(path, f"DROP TABLE {table}")
    [finding] = _errors(path)
    command = f"nextcloud-mcp-server db restore {made} -d {path}"
    assert (made.name in finding.message, finding.command) == (True, command)
    caplog.clear()
    if way == "start":
        prepare(path)
    else:
        repair(Settings(path, (KEY,)))
    rows_of = f"{number} row{'' if number == 1 else 's'} of {table}"
    assert rows_of in finding.message
    [warning] = [r.getMessage() for r in caplog.records if str(made) in r.getMessage()]
    assert (rows_of in warning, command in warning) == (True, True)
    restore(preview_restore(path, made))
    assert (inspect(path).ready, _count(path, table)) == (True, number)


def test_a_later_backup_without_the_table_hides_nothing(path: Path) -> None:
    """The newest backup that has the table counts, and one where it is empty ends the search."""
    made = back_up(path)
    execute(path, "DROP TABLE audit_logs")
    back_up(path)
    [finding] = _errors(path)
    assert made.name in finding.message
    prepare(path)
    back_up(path)
    execute(path, "DROP TABLE audit_logs")
    assert not _errors(path)


def test_an_empty_table_is_no_loss(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that were deleted are no error, and neither is a missing table that had none."""
    execute(path, "DELETE FROM audit_logs")
    made = back_up(path)
    assert not _errors(path)
    execute(path, "DROP TABLE audit_logs")
    caplog.clear()
    prepare(path)
    assert not [r for r in caplog.records if str(made) in r.getMessage()]


def test_the_table_of_provider_tokens_is_named_without_a_backup(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds tokens, so its loss is never silent."""
    execute(path, "DROP TABLE oauth_sessions")
    caplog.clear()
    prepare(path)
    assert "lacks oauth_sessions, where secrets are stored" in caplog.text
