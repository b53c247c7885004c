"""Another driver in the place of sqlite3 works, for a newer SQLite than Python's own."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.child import ROOT
from tests.support.contents import KEY

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
                await storage.oauth_sessions.create("id", "http://localhost/", expires_at=2**32)
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
