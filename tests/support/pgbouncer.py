"""PgBouncer in transaction mode before a server of the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.support.postgresql import Server, unprivileged

#: Debian installs it where only the PATH of root leads.
_PATH = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"

_PORT = 6432

#: Every database is that of the server, and every client is its superuser.
_CONFIGURATION = """
[databases]
* = host={server} port={server_port} user=postgres
[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
logfile = {folder}/log
pidfile = {folder}/pid
auth_type = any
admin_users = postgres
pool_mode = transaction
max_client_conn = 500
default_pool_size = {size}
server_login_retry = {retry}
"""


class PgBouncer:
    """A running PgBouncer, on a socket in a folder of its own.

    Args:
        program: its path.
        folder: for its socket, its configuration and its log.
        server: the server behind it.
        size: the connections to one database of the server.
        retry: seconds for which it refuses logins after one at the server has failed.
    """

    def __init__(self, program: str, folder: Path, server: Server, size: int, retry: int) -> None:
        self._program = program
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "ini").write_text(
            _CONFIGURATION.format(
                server=server.folder,
                server_port=server.settings.get("port", "5432"),
                port=_PORT,
                folder=folder,
                size=size,
                retry=retry,
            )
        )

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of the server behind it."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={_PORT}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [self._program, "-q", str(self.folder / "ini")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **unprivileged(),
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url("pgbouncer"), autocommit=True).close()
                return
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, with every connection through it."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)


@contextmanager
def pooled(server: Server, size: int = 20, retry: int = 15) -> Iterator[PgBouncer]:
    """Run PgBouncer before ``server`` until the block ends; skip the test without the program."""
    program = shutil.which("pgbouncer", path=_PATH)
    if program is None:
        pytest.skip("PgBouncer is not installed")
    # Not in pytest's own folder, which another user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="pgb"))
    bouncer = PgBouncer(program, folder, server, size, retry)
    if not os.geteuid():
        user = unprivileged()["user"]
        for path in (folder, folder / "ini"):
            shutil.chown(path, user, user)
    try:
        bouncer.start()
        yield bouncer
    finally:
        with suppress(ProcessLookupError):
            bouncer.stop()
        shutil.rmtree(folder, ignore_errors=True)
