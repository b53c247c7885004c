"""A secret that was deleted before a SIGKILL leaves the old -wal after the next start."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.crypto.keyring import Keyring
from tests.cli.places import environment
from tests.support.child import Child, run_program
from tests.support.contents import KEY

#: Stores a secret that has pages of its own, deletes it, and waits to be killed.
_DELETES: Final = """
import asyncio, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    async with RefreshTokenStorage(sys.argv[1]) as storage:
        await storage.store_refresh_token("bob", "kept")
        await storage.store_refresh_token("alice", "t" * 10_000)
        print("stored", flush=True)
        sys.stdin.readline()
        await storage.delete_refresh_token("alice")
        print("deleted", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""

#: Opens a store, and reads until its input ends.
_READS: Final = """
import asyncio, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    async with RefreshTokenStorage(sys.argv[1]) as storage:
        assert (await storage.get_refresh_token("bob")).token == "kept"
        print("read", flush=True)
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        while not ended.done() and sys.argv[2] == "reads":
            await storage.get_refresh_token("bob")
            await asyncio.sleep(0.01)
        await ended

asyncio.run(main())
"""


class Killed:
    """A database whose server was killed, and the end of a ciphertext that was deleted before."""

    def __init__(self, path: Path) -> None:
        """Let a server store and delete it, and kill it."""
        self.path = path
        self.environ = environment(path.parent, {"TOKEN_ENCRYPTION_KEY": KEY})
        server = Child(_DELETES, path, environ=self.environ)
        assert server.answer() == "stored"
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT encrypted_token FROM refresh_tokens WHERE user_id = 'alice'"
            [(value,)] = connection.execute(query).fetchall()
        self.needle = value[-64:]
        assert server.ask("") == "deleted"
        os.kill(server.process.pid, signal.SIGKILL)
        server.kill()
        assert self.holders() == {f"{path.name}-wal"}

    def holders(self) -> set[str]:
        """Return the files that have the ciphertext."""
        found = set()
        for file in self.path.parent.iterdir():
            if file.is_file() and self.needle in file.read_bytes():
                found.add(file.name)
        return found

    def files(self) -> list[bytes]:
        """Return the database and its -wal."""
        return [self.path.with_name(f"tokens.db{end}").read_bytes() for end in ("", "-wal")]

    def run(self, command: str) -> None:
        """Run a command on the database."""
        program = [sys.executable, "-m", "nextcloud_mcp_server", *command.split()]
        run_program(*program, "-d", self.path, env=self.environ, check=True)


@pytest.fixture
def killed(tmp_path: Path) -> Killed:
    """Return a database with the -wal of a killed server."""
    (tmp_path / "data").mkdir(mode=0o700)
    return Killed(tmp_path / "data" / "tokens.db")


@pytest.mark.parametrize("what", ["reads", "is idle"])
def test_a_server_that_only_reads_has_forgotten_it(what: str, killed: Killed) -> None:
    """Some seconds after its start, without a write and while it is open."""
    server = Child(_READS, killed.path, what, environ=killed.environ)
    try:
        assert server.answer() == "read"
        until = time.monotonic() + 30
        while killed.holders() and time.monotonic() < until:
            time.sleep(0.2)
        assert killed.holders() == set()
        assert killed.path.with_name("tokens.db-wal").exists()
        server.ask("")
        assert server.process.wait(30) == 0
    finally:
        server.kill()


@pytest.mark.parametrize(
    "command",
    ["keys introduce", "keys rotate", f"keys promote {Keyring(KEY).fingerprints[0]}", "db prune"],
)
def test_a_command_that_writes_has_forgotten_it(command: str, killed: Killed) -> None:
    """When it ends, also if it has changed no row."""
    killed.run(command)
    assert killed.holders() == set()


@pytest.mark.parametrize("command", ["keys list", "db current", "db doctor", "db upgrade"])
def test_a_command_that_has_nothing_to_write_changes_nothing(command: str, killed: Killed) -> None:
    """Not even the -wal: a server may be about to start, or somebody wants to look at it."""
    before = killed.files()
    killed.run(command)
    assert killed.files() == before
