"""The installed program, in an empty environment outside of the checkout.

What a command does is tested in tests/cli. Here each command runs once, to show that the wheel
contains what it needs.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.support import invariants
from tests.support.contents import KEY
from tests.support.revisions import BEFORE, HEAD
from tests.support.shapes import at
from tests.support.snapshot import snapshot
from tests.wheel.conftest import Installed, uv

#: Every ``db`` command with the status that it exits with, in an order that makes sense.
COMMANDS = (
    ("upgrade", 0),
    ("current --json", 0),
    ("history --json", 0),
    ("check --json", 0),
    (f"stamp {HEAD}", 0),
    ("backup", 0),
    ("prune --yes", 0),
    ("audit list", 0),
    ("audit verify", 0),
    ("downgrade --yes", 0),
    ("check", 3),
    ("backups", 0),
    ("restore --yes {backup}", 0),
    ("check", 0),
    ("log", 0),
    ("doctor", 0),
    ("repair --yes", 0),
    ("downgrade --yes --revision base", 0),
    (f"upgrade --revision {HEAD}", 0),
)
#: Those that need no database.
SOURCE_COMMANDS = (
    (f"show {HEAD}", 0),
    ("lint --strict", 0),
    ("migrate message", 1),
    ("copy --help", 0),
)


def _revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        [(revision,)] = connection.execute("SELECT version_num FROM alembic_version")
    return str(revision)


def _serve_briefly(installed: Installed, folder: Path, **settings: str) -> None:
    """Start the installed server in ``folder``, wait until it is ready at head, and stop it."""
    with installed.serving(folder, settings) as address:
        url = f"http://127.0.0.1:{address.rpartition(':')[2]}/health/ready"
        with urllib.request.urlopen(url, timeout=30) as response:
            ready = json.load(response)
    assert (ready["revision"], ready["head"]) == (HEAD, HEAD)


@pytest.fixture
def default_place() -> Iterator[None]:
    """Remove what a server without configuration creates in ``/app``, if it runs as root."""
    app = Path("/app")
    if app.exists():
        pytest.skip("/app exists: a server without configuration would use it")
    yield
    shutil.rmtree(app, ignore_errors=True)


@pytest.mark.usefixtures("default_place")
def test_the_server_starts_with_no_configuration(installed: Installed, tmp_path: Path) -> None:
    """On a new machine the command without arguments creates a database at head and serves."""
    _serve_briefly(installed, tmp_path)


async def test_the_server_migrates_an_old_file(installed: Installed, tmp_path: Path) -> None:
    """Started on a file from before Alembic, it is ready at head and every secret is readable."""
    path = tmp_path / "tokens.db"
    at("001").unversioned().write(path)
    secrets = invariants.secrets_in(snapshot(path), KEY)
    _serve_briefly(installed, tmp_path, TOKEN_STORAGE_DB=str(path), TOKEN_ENCRYPTION_KEY=KEY)

    assert invariants.companions(path) == set()
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        assert await invariants.read_through_the_store(storage, secrets) == secrets


def test_every_command_works(installed: Installed, tmp_path: Path) -> None:
    """Each ``db`` command has its exit status, in a folder with nothing but a database."""
    database = tmp_path / "tokens.db"
    revisions = []
    for command, status in COMMANDS:
        [backup] = [*database.parent.glob("*-manual")] or [database]
        words = command.format(backup=backup).split()
        done = installed.run("db", *words, "-d", str(database), cwd=tmp_path)
        assert done.returncode == status, (command, done.stdout, done.stderr)
        assert "--json" not in command or json.loads(done.stdout) is not None
        revisions.append(_revision(database) if "base" not in command else "")
    assert [*dict.fromkeys(revisions)] == [HEAD, BEFORE, ""]
    for command, status in SOURCE_COMMANDS:
        done = installed.run("db", *command.split(), cwd=tmp_path)
        assert done.returncode == status, (command, done.stdout, done.stderr)

    text = installed.run("db", "--help", cwd=tmp_path).stdout
    listed = text.split("Commands:\n")[1].split("\n\n")[0]
    names = {line.split()[0] for line in listed.splitlines() if line[2:3].strip()}
    assert names == {command.split()[0] for command, _ in (*COMMANDS, *SOURCE_COMMANDS)}


@pytest.mark.parametrize("command", ["migrate message", "lint --fix", "lint --release"])
def test_the_source_files_need_a_checkout(
    installed: Installed, command: str, tmp_path: Path
) -> None:
    """A command that writes migrations fails outside of a checkout and writes nothing."""
    done = installed.run("db", *command.split(), "--json", cwd=tmp_path)

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "not-a-checkout"
    assert list(tmp_path.iterdir()) == []


def test_only_pinned_libraries_are_installed(installed: Installed, project: dict[str, Any]) -> None:
    """The libraries have the versions of ``pyproject.toml``, and no development tool is there."""
    pins = set(project["tool"]["uv"]["constraint-dependencies"])
    frozen = uv("pip", "freeze", "--python", str(installed.prefix)).split("\n")

    libraries = {line for line in frozen if "==" in line}
    names = {line.split("==")[0] for line in libraries}
    assert libraries - pins == set()
    assert "sqlalchemy" in names
    assert not {"pytest", "ruff", "mypy", "nox", "psycopg"} & names
