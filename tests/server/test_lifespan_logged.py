"""What a start in another application did is in the default log of its server."""

from __future__ import annotations

import logging
import re
import signal
from pathlib import Path

import pytest

from nextcloud_mcp_server.lifespan import token_store_lifespan
from tests.cli.places import execute
from tests.server.helpers import Server
from tests.support.child import ROOT
from tests.support.contents import KEY

LOGGER = "nextcloud_mcp_server.lifespan"


def _with_a_row(database: Path) -> Path:
    execute(database, "INSERT INTO audit_logs VALUES (1, 0, 'event', 'alice', '', '', '', '')")
    return database


def _log(database: Path) -> list[str]:
    path = f"{ROOT}:{ROOT / 'examples' / 'embedding'}"
    uvicorn = ("-m", "uvicorn", "reminders:app", "--port", "0")
    with Server(database, command=uvicorn, PYTHONPATH=path) as server:
        assert server.process.stderr is not None
        lines = []
        for line in server.process.stderr:
            lines.append(line.rstrip("\n"))
            if "Uvicorn running" in line:
                server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) in {0, -signal.SIGTERM}
    return lines


def test_plain_uvicorn_shows_a_migration_and_its_backup(old_database: Path, head: str) -> None:
    """uvicorn's own log has a line for the upgrade and one for the backup, once each."""
    lines = _log(_with_a_row(old_database))

    [upgraded] = [line for line in lines if f"upgraded {old_database} from 006 to {head}" in line]
    [backup] = old_database.parent.glob("old.db.backup-*-006")
    [saved] = [line for line in lines if str(backup) in line]
    assert re.match(r"INFO: +upgraded", upgraded)
    assert re.match(r"INFO: +backup: ", saved)


def test_a_start_at_head_logs_nothing(database: Path) -> None:
    """There is nothing to tell, and uvicorn's log has its own lines only."""
    assert not [line for line in _log(database) if str(database) in line]


@pytest.mark.parametrize("disabled", [(), (LOGGER, "uvicorn.error")])
async def test_without_a_log_the_lines_are_warnings(
    disabled: tuple[str, ...],
    old_database: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If nobody configured logging, Python prints warnings only: so these are warnings.

    They are shown although the env.py that `alembic init` writes disables every logger that is
    there already.
    """
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    for name in disabled:
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)
    async with token_store_lifespan(_with_a_row(old_database), encryption_key=KEY)(None):
        pass
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith(f"upgraded {old_database} from 006 to ")
    assert second.startswith("backup: ")


async def test_a_host_that_logs_info_gets_info(
    old_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If the host's log shows INFO of this package, the lines have that level."""
    with caplog.at_level(logging.INFO):
        async with token_store_lifespan(_with_a_row(old_database), encryption_key=KEY)(None):
            pass
    assert [r.levelname for r in caplog.records if r.name == LOGGER] == ["INFO", "INFO"]
    assert logging.getLogger("nextcloud_mcp_server").level == logging.NOTSET
