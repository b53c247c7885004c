"""Another driver in the place of sqlite3 works, and so do proxies around its connections."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.authoring.lint.review import review
from nextcloud_mcp_server.backends.sqlite.connect import MINIMUM
from tests.cli.places import Shelf, process
from tests.support.by_path import prepare
from tests.support.child import ROOT
from tests.support.contents import KEY
from tests.support.revisions import HEAD

_PROGRAM = """
import asyncio, sys
import pysqlite3
sys.modules["sqlite3"] = pysqlite3
from pathlib import Path
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import wal
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.settings import load_settings

async def main(path, key):
    async with RefreshTokenStorage(path, encryption_key=key) as storage:
        await storage.store_refresh_token("alice", "secret")
        assert (await storage.get_refresh_token("alice")).token == "secret"
        for _ in range(2):
            try:
                await storage.oauth_sessions.create("s" * 22, "http://localhost/", expires_at=2**32)
            except TokenStorageError as error:
                print(error.code)
        assert wal.checkpoint(path, 1, empty=True)
        back_up(path, path.with_name("saved.db"))
    diagnose(load_settings(database=path))

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.skipif(find_spec("pysqlite3") is None, reason="pysqlite3 is not installed")
def test_pysqlite3_in_the_place_of_sqlite3(tmp_path: Path) -> None:
    """A start, calls, a named error, a checkpoint, a backup and the doctor work with pysqlite3."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "tokens.db"), KEY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "conflict\n", "")


def test_no_extended_code_is_asked_for_by_name() -> None:
    """Only the names of primary codes are used: pysqlite3 has no others."""
    extended = re.compile(r"sqlite3\.SQLITE_[A-Z]+_[A-Z]+")
    sources = (ROOT / "nextcloud_mcp_server").rglob("*.py")
    found = {path.name for path in sources if extended.search(path.read_text("utf-8"))}
    assert found == set()


_WRAPPED = """
import asyncio, sys
from tests.support import wrapped
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.testing.templates import Templates
from nextcloud_mcp_server.testing.walk import StartWalk
from contextlib import ExitStack
from pathlib import Path

async def main(path, key):
    async with RefreshTokenStorage(path, encryption_key=key) as storage:
        await storage.store_refresh_token("bob", "secret")
        assert (await storage.get_refresh_token("bob")).token == "secret"

path = Path(sys.argv[1])
asyncio.run(main(path, sys.argv[2]))
template = Templates(path.with_name("templates")).copy("010", path.with_name("copy.db"))
with ExitStack() as opened:
    StartWalk(path.parent, opened)(template).round_trip()
print(wrapped.made)
"""

_WRAPPED_COMMAND = """
import sys
from tests.support import wrapped
from nextcloud_mcp_server.cli.main import main

status = main()
if wrapped.made:
    print("proxies:", wrapped.made, file=sys.stderr)
sys.exit(status)
"""


def _old(path: Path) -> Path:
    """Create a database at 007 whose secret belongs to the key."""
    Shelf(path.parent).put("behind", path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM refresh_tokens")
    return path


def test_a_store_never_gets_a_proxy(path: Path) -> None:
    """A migrating start, reads and writes, a template and a walk use the driver's own class."""
    done = process(str(_old(path)), KEY, cwd=path.parent, code=_WRAPPED)
    assert (done.status, done.out, done.err) == (0, "[]\n", "")


@pytest.mark.parametrize(
    "command",
    [
        "upgrade --dry-run",
        "upgrade",
        "current",
        "check",
        "backup",
        "backups --verify",
        "doctor",
        "history",
        "log",
        "repair --yes",
        "restore --newest --yes",
        "downgrade --yes",
        "stamp 010 --yes",
    ],
)
def test_commands_work_beside_wrapped_connections(path: Path, command: str, shelf: Shelf) -> None:
    """Every command does the same whether ``sqlite3.connect`` returns proxies or not."""
    started = command not in {"upgrade", "upgrade --dry-run"}
    name, *options = command.split()
    results = []
    for code in ("", _WRAPPED_COMMAND):
        for file in path.parent.iterdir():
            file.unlink()
        shelf.put("at-head" if started else "behind", path)
        if "restore" in command:
            assert process("db", "backup", "-d", str(path), cwd=path.parent).status == 0
        done = process("db", name, *options, "-d", str(path), cwd=path.parent, code=code)
        assert "proxies" not in done.err
        results.append((done.status, done.out.count("\n"), done.err.count("\n")))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "command", ["upgrade", "current", "backup", "restore --newest --yes", "downgrade --yes"]
)
def test_commands_work_with_replaced_classes(command: str, path: Path, shelf: Shelf) -> None:
    """A tool may replace the classes of the connections before the program is imported."""
    shelf.put("behind" if command == "upgrade" else "at-head", path)
    if "restore" in command:
        assert process("db", "backup", "-d", str(path), cwd=path.parent).status == 0
    code = _WRAPPED_COMMAND.replace("wrapped\n", "wrapped\nwrapped.replace_classes()\n", 1)
    name, *options = command.split()
    done = process("db", name, *options, "-d", str(path), cwd=path.parent, code=code)
    assert (done.status, "error" in done.err) == (0, False)


def test_a_store_works_with_replaced_classes(path: Path) -> None:
    """A migrating start, reads and writes, a template and a walk too."""
    code = _WRAPPED.replace("wrapped\n", "wrapped\nwrapped.replace_classes()\n", 1)
    done = process(str(_old(path)), KEY, cwd=path.parent, code=code)
    assert (done.status, done.out, done.err) == (0, "[]\n", "")


_OLD = """
import sqlite3, sys
sqlite3.sqlite_version_info, sqlite3.sqlite_version = (3, 34, 1), "3.34.1"
from nextcloud_mcp_server.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    "command",
    ["run", "db upgrade", "db check", "db backup", "db repair --yes", "keys list", "db lint"],
)
def test_an_old_sqlite_is_refused_by_name(command: str, path: Path) -> None:
    """With an SQLite before 3.35 a start and the commands fail, and no file is made."""
    database = [] if command == "db lint" else ["-d", str(path)]
    environ = {"TOKEN_STORAGE_DB": str(path)}
    if command == "run":
        database = []
    done = process(*command.split(), *database, cwd=path.parent, environ=environ, code=_OLD)
    assert done.status == 1
    assert "error: This Python uses SQLite 3.34.1, and 3.35.0 or newer is needed" in done.err
    assert "[old-sqlite]" in done.err
    assert list(path.parent.iterdir()) == []


def test_an_old_sqlite_restores_nothing(path: Path) -> None:
    """The backup is not even read."""
    backup = _old(path).rename(path.with_name("kept.db"))
    arguments = ("restore", str(backup), "--yes", "-d", str(path))
    done = process("db", *arguments, cwd=path.parent, code=_OLD)
    assert (done.status, "[old-sqlite]" in done.err, path.exists()) == (1, True, False)


def test_the_doctor_reports_an_old_sqlite(path: Path) -> None:
    """The check `sqlite` has the same line and remedy."""
    done = process("db", "doctor", "-d", str(_old(path)), cwd=path.parent, code=_OLD)
    assert done.status == 1
    assert "sqlite: This Python uses SQLite 3.34.1" in " ".join(done.out.split())


def test_the_oldest_sqlite_is_documented() -> None:
    """The documentation has the minimum that a start checks."""
    version = ".".join(map(str, MINIMUM[:2]))
    for page in ("README.md", "docs/index.md", "docs/reliability.md", "docs/errors.md"):
        assert f"SQLite {version}" in (ROOT / page).read_text("utf-8")


def test_the_default_of_foreign_keys_does_not_matter(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an SQLite that enforces foreign keys by default, a start and `db lint` find nothing."""

    def enforcing(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = sqlite3.connect(*arguments, **options)
        connection.execute("PRAGMA foreign_keys=ON").close()
        return connection

    monkeypatch.setattr(sqlite3, "Connection", enforcing)
    assert review().problems == ()
    assert prepare(_old(path)).after == HEAD
