"""A database file that is mounted into a container without its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.child import ROOT, run_program
from tests.support.contents import KEY
from tests.support.files import names
from tests.support.shapes import at

#: Mounts a file or a folder, and runs each command on a database with its output on one line.
_RUN = """
import asyncio, contextlib, io, subprocess, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.cli.main import main
from nextcloud_mcp_server.errors import TokenStorageError

source, target, path, *commands = sys.argv[1:]
subprocess.run(["mount", "--bind", source, target], check=True)

async def start():
    async with RefreshTokenStorage(path) as storage:
        return len(await storage.list_user_ids())

for command in commands:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if command == "start":
            try:
                print(asyncio.run(start()))
                status = 0
            except TokenStorageError as error:
                print(error, error.remedy, f"[{error.code}]")
                status = 1
        else:
            status = main(["db", *command.split(" "), "-d", path])
    print(status, *printed.getvalue().split())
"""

_COMMANDS = (
    *("start", "current", "check", "doctor", "upgrade", "upgrade --dry-run", "history", "log"),
    *("downgrade --revision 009 --yes", "stamp head --yes", "repair --yes", "backup", "backups"),
    "restore --newest --yes",
)


def in_a_container(source: Path, target: Path, path: Path, *commands: str) -> list[str]:
    """Run commands where ``source`` is mounted on ``target``, which no other process sees."""
    alone = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file may be mounted here")
    program = (*alone, sys.executable, "-c", _RUN, source, target, path, *commands)
    done = run_program(*program, cwd=ROOT, env={**os.environ, "TOKEN_ENCRYPTION_KEY": KEY})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def database(path: Path) -> Path:
    """Return a database with rows that is behind head."""
    at("010", "portable").write(path)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("head", [False, True])
def test_every_command_refuses_it(head: bool, database: Path, tmp_path: Path) -> None:
    """Its -wal and locks would be where nobody else sees them; the remedy names the folder."""
    if head:
        prepare(database)
    before = invariants.disk(database)
    target = tmp_path / "container" / "tokens.db"
    target.parent.mkdir()
    target.touch(0o600)
    results = in_a_container(database, target, target, *_COMMANDS)
    for command, result in zip(_COMMANDS, results, strict=True):
        assert result.startswith("1 "), (command, result)
        assert f"{target} is mounted without its folder" in result, command
        assert f"-v ./data:{target.parent}" in result, command
    assert names(target.parent) == {"tokens.db"}
    assert invariants.disk(database) == before


def test_a_folder_that_is_mounted_is_used(database: Path, tmp_path: Path) -> None:
    """The usual volume of a container, and a link from another mount into it, are accepted."""
    target = tmp_path / "container"
    target.mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(target / "tokens.db")
    wanted = ("upgrade", "current", "check", "backup", "backups", "start")
    for path in (target / "tokens.db", link):
        results = in_a_container(database.parent, target, path, *wanted)
        assert [result[:2] for result in results] == ["0 "] * len(wanted), results
