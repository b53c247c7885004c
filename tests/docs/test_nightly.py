"""The nightly jobs in the guide: each is run as it is typed there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.backup_files import find_backups
from tests.support.child import ROOT, run_program
from tests.support.shapes import at_head

GUIDE = (ROOT / "docs/how-to/back-up-and-restore.md").read_text("utf-8")
PROGRAM = str(Path(sys.executable).parent)


def _block(first: str) -> list[str]:
    """Return the lines of the block that has a line beginning with ``first``."""
    [block] = (
        found
        for found in re.findall(r"```\w+\n(.*?)```", GUIDE, re.DOTALL)
        if f"\n{first}" in found
    )
    return str(block).splitlines()


def _run(command: str, settings: list[str], path: Path) -> None:
    here = [command, *settings]
    command, *settings = (
        line.replace("/opt/nextcloud-mcp-server/bin", PROGRAM).replace(
            "/app/data/tokens.db", str(path)
        )
        for line in here
    )
    ended = run_program("/usr/bin/env", "-i", *settings, "/bin/sh", "-c", command, cwd="/")
    assert (ended.returncode, "error" in ended.stderr) == (0, False), ended.stderr


def _old(path: Path) -> None:
    for number in range(15):
        path.with_name(
            f"{path.name}.backup-202601{number + 10}T000000.000000Z-101-manual"
        ).write_bytes(path.read_bytes())


@pytest.mark.parametrize("job", ["cron", "systemd"])
def test_a_nightly_job_backs_up_and_deletes(job: str, path: Path) -> None:
    """With the environment of the job alone it makes a backup, and deletes what is old."""
    at_head(path)
    _old(path)
    before = find_backups(path)
    if job == "cron":
        *settings, line = _block("15 3 * * *")
        _run(line.split(None, 5)[5], settings, path)
    else:
        lines = _block("ExecStart=")
        settings = [line.partition("=")[2] for line in lines if line.startswith("Environment=")]
        for line in lines:
            if line.startswith("ExecStart="):
                _run(line.partition("=")[2], settings, path)
    left = [one.path for one in find_backups(path)]
    assert left[:-1] == [one.path for one in before[2:]]
    assert left[-1] not in {one.path for one in before}
