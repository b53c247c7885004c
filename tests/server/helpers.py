"""Helpers of the tests of the server: databases, and the server as a process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.server.run import serve
from nextcloud_mcp_server.settings import Settings
from tests.migrate.databases import versions
from tests.support.child import ROOT
from tests.support.contents import KEY

_SERVE = "import sys; from nextcloud_mcp_server.server.run import serve; sys.exit(serve(port=0))"

#: Makes migrations create a file, and begin when it is removed.
SLOWLY = """
import pathlib, sys, time
import pytest

from nextcloud_mcp_server.migrate import run as running
migrate = running.migrate
def slowly(inspection, *others, **options):
    sign = pathlib.Path(f"{inspection.database}.sign")
    sign.touch()
    while sign.exists():
        time.sleep(0.01)
    return migrate(inspection, *others, **options)
running.migrate = slowly
"""

#: Adds a route that creates a file, and uses the store half a second later.
SLOW_ROUTE = """
import asyncio, os, pathlib
from nextcloud_mcp_server.server import run as program
from starlette.responses import JSONResponse
create_app = program.create_app
async def slow(request):
    pathlib.Path(os.environ["TOKEN_STORAGE_DB"] + ".sign").touch()
    await asyncio.sleep(0.5)
    return JSONResponse(await request.state.storage.list_user_ids())
def with_route(**options):
    app = create_app(**options)
    app.add_route("/slow", slow)
    return app
program.create_app = with_route
"""


class Server:
    """A server in a separate process, on a free port.

    Args:
        database: its database.
        first: Python code that the process runs first.
        command: the arguments of the interpreter.
        env: more variables of the environment.
    """

    def __init__(
        self, database: Path, first: str = "", command: Sequence[str] = ("-c", _SERVE), **env: str
    ) -> None:
        self.database = database
        self.sign = database.with_name(f"{database.name}.sign")
        self.process = subprocess.Popen(
            [sys.executable, *command[:-1], first + command[-1]],
            cwd=database.parent,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "TOKEN_STORAGE_DB": str(database),
                "TOKEN_ENCRYPTION_KEY": KEY,
                **env,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def url(self) -> str:
        """Wait for its address."""
        return self.line("listening on ").removeprefix("listening on ")

    def line(self, beginning: str) -> str:
        """Wait for the next line on stdout with this beginning."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.output.append(text.rstrip("\n"))
            if text.startswith(beginning):
                return self.output[-1]
        raise AssertionError((self.output, self.process.communicate()))

    def error(self, part: str) -> str:
        """Wait for the next line on stderr with this part."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            if part in text:
                return text
        raise AssertionError(self.output)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, wait, and return the exit status and stderr."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Wait for the end, and return the exit status and stderr."""
        out, err = self.process.communicate(timeout=30)
        self.output += out.splitlines()
        return self.process.returncode, err


def _has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")


def wait_until_at_work(server: Server) -> None:
    """Wait until the worker thread of its start exists."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    deadline = time.monotonic() + 30
    while len(list(tasks.iterdir())) < 2:
        assert server.process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for(path: Path) -> None:
    """Wait until a file exists."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_locked(database: Path) -> bool:
    """Check whether the lock of ``database`` is held."""
    try:
        with guard(database, 0):
            return False
    except TokenStorageError as error:
        return error.code == "lock-timeout"


def is_closed(storage: RefreshTokenStorage) -> bool:
    """Check whether a store is closed."""
    return "closed" in repr(storage)


def revision(database: Path) -> str:
    """Read the revision in the file as another program."""
    [version] = versions(database)
    return version


def leftovers(database: Path) -> set[str]:
    """Return the files that SQLite, or an incomplete backup, left beside ``database``."""
    names = {path.name for path in database.parent.glob("tokens.db*")}
    return {name for name in names if name.endswith(("-wal", "-shm", "-journal", ".partial"))}


def fails(capfd: pytest.CaptureFixture[str], settings: Settings, *, port: int = 0) -> str:
    """Check that serving fails with one line and a remedy; return the line of the error."""
    assert serve(port=port, settings=settings) == 1
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if "Z warning: " not in line]
    [error] = [line for line in lines if "error: " in line]
    [remedy] = [line for line in lines if line.startswith("remedy: ")]
    assert lines == [error, remedy]
    return error


async def stop_at_once(_server: object) -> None:
    """Replace the main loop of uvicorn, so that the server stops at once."""
