"""What the tests of the server share: databases, and the server as a process."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import run
from nextcloud_mcp_server.server.run import serve
from nextcloud_mcp_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

#: A key that protects nothing: it is printed in public.
KEY = "bm1jcC1jb3JwdXMtZml4ZWQta2V5LTAxMjM0NTY3ODk="

_SERVE = "import sys; from nextcloud_mcp_server.server.run import serve; sys.exit(serve(port=0))"

#: Makes a migration long: it says so in a file, and goes on when that file is removed.
SLOWLY = """
import pathlib, sys, time
import pytest

from nextcloud_mcp_server.migrate import run as running
migrate = running.migrate
def slowly(database, *others, **options):
    sign = pathlib.Path(f"{database}.sign")
    sign.touch()
    while sign.exists():
        time.sleep(0.01)
    return migrate(database, *others, **options)
running.migrate = slowly
"""

#: Adds a route that asks the store half a second after it says, in a file, that it was asked.
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
    """A server in a process of its own, on a free port.

    Args:
        database: where its database lies.
        first: what its process runs first.
    """

    def __init__(self, database: Path, first: str = "") -> None:
        self.database = database
        self.sign = database.with_name(f"{database.name}.sign")
        self.process = subprocess.Popen(
            [sys.executable, "-c", first + _SERVE],
            cwd=database.parent,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "TOKEN_STORAGE_DB": str(database),
                "TOKEN_ENCRYPTION_KEY": KEY,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def url(self) -> str:
        """Where it listens, as soon as it says so."""
        return self.line("listening on ").removeprefix("listening on ")

    def line(self, beginning: str) -> str:
        """The next line on stdout that begins so."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.said.append(text.rstrip("\n"))
            if text.startswith(beginning):
                return self.said[-1]
        raise AssertionError((self.said, self.process.communicate()))

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, wait, and answer the exit status and what stderr says."""
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        """Wait for the end; the exit status and what stderr says."""
        out, err = self.process.communicate(timeout=30)
        self.said += out.splitlines()
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
    """Return when the worker thread of its start is there."""
    tasks = Path(f"/proc/{server.process.pid}/task")
    deadline = time.monotonic() + 30
    while len(list(tasks.iterdir())) < 2:
        assert server.process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


def wait_for(path: Path) -> None:
    """Return when there is a file."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_locked(database: Path) -> bool:
    """Whether somebody holds the lock of ``database``."""
    try:
        with guard(database, 0):
            return False
    except TokenStorageError as error:
        return error.code == "lock-timeout"


def is_closed(storage: RefreshTokenStorage) -> bool:
    """Whether a store was opened and closed."""
    return "closed" in repr(storage)


def revision(database: Path) -> str:
    """The revision that another program finds in the file."""
    with closing(sqlite3.connect(database)) as connection:
        [(found,)] = connection.execute("SELECT version_num FROM alembic_version")
    return str(found)


@contextmanager
def slow_migrations(sign: Path) -> Iterator[None]:
    """Let migrations in this process make the file ``sign``, and begin when it is removed."""
    migrate = run.migrate

    def slowly(*arguments: object, **options: object) -> Path | None:
        sign.touch()
        while sign.exists():
            time.sleep(0.01)
        return migrate(*arguments, **options)  # type: ignore[arg-type]

    run.migrate = slowly
    try:
        yield
    finally:
        sign.unlink(missing_ok=True)
        run.migrate = migrate


def leftovers(database: Path) -> set[str]:
    """What SQLite, or a half-made backup, has left beside ``database``."""
    beside = {path.name for path in database.parent.iterdir() if path.name.startswith("tokens.db")}
    return {name for name in beside if name.endswith(("-wal", "-shm", "-journal", ".partial"))}


def fails(
    capfd: pytest.CaptureFixture[str], settings: Settings, *, port: int = 0, debug: bool = False
) -> tuple[str, str]:
    """Serve, see it fail, and give the line of the error and that of the remedy."""
    assert serve(port=port, settings=settings, debug=debug) == 1
    errors = capfd.readouterr().err
    if not debug:
        assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if not line.startswith("warning: ")]
    [error] = [line for line in lines if "error: " in line]
    [remedy] = [line for line in lines if line.startswith("remedy: ")]
    if not debug:
        assert lines == [error, remedy]
    return error, remedy


async def stop_at_once(_server: object) -> None:
    """Stand in for uvicorn's main loop, and serve nobody."""
