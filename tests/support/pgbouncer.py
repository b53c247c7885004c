"""PgBouncer in transaction mode before a server of the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.support.postgresql import Server, free_port, unprivileged

#: Debian installs it where only the PATH of root leads.
_PATH = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"

#: Every database is that of the server, and every client is its superuser.
_CONFIGURATION = """
[databases]
* = host={server} port={server_port} user=postgres
[pgbouncer]
listen_addr = {address}
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
{tls}
"""

#: With TLS only, on a port; the certificate is in the folder.
_TLS = """
client_tls_sslmode = require
client_tls_key_file = {folder}/server.key
client_tls_cert_file = {folder}/server.crt
"""


class PgBouncer:
    """A running PgBouncer, on a socket in a folder of its own.

    Args:
        program: its path.
        folder: for its socket, its configuration and its log.
        server: the server behind it.
        size: the connections to one database of the server.
        retry: seconds for which it refuses logins after one at the server has failed.
        tls: whether it listens on :attr:`port` as well, with ``server.key`` and ``server.crt``.
    """

    def __init__(
        self, program: str, folder: Path, server: Server, *, size: int, retry: int, tls: bool
    ) -> None:
        self._program = program
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "ini").write_text(
            _CONFIGURATION.format(
                server=server.folder,
                server_port=server.settings.get("port", "5432"),
                port=self.port,
                address="127.0.0.1" if tls else "",
                tls=_TLS.format(folder=folder) if tls else "",
                folder=folder,
                size=size,
                retry=retry,
            )
        )

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of the server behind it."""
        return f"postgresql://postgres@/{database}?host={self.folder}&port={self.port}"

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
def pooled(
    server: Server,
    size: int = 20,
    retry: int = 15,
    certify: Callable[[Path], object] | None = None,
) -> Iterator[PgBouncer]:
    """Run PgBouncer before ``server`` until the block ends; skip the test without the program.

    Args:
        server: the server.
        size: see :class:`PgBouncer`.
        retry: see :class:`PgBouncer`.
        certify: writes ``server.key`` and ``server.crt`` into a folder, for TLS.
    """
    program = shutil.which("pgbouncer", path=_PATH)
    if program is None:
        pytest.skip("PgBouncer is not installed")
    # Not in pytest's own folder, which another user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="pgb"))
    if certify is not None:
        certify(folder)
    tls = certify is not None
    pooler = PgBouncer(program, folder, server, size=size, retry=retry, tls=tls)
    if not os.geteuid():
        user = unprivileged()["user"]
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, user, user)
    try:
        pooler.start()
        yield pooler
    finally:
        with suppress(ProcessLookupError):
            pooler.stop()
        shutil.rmtree(folder, ignore_errors=True)
