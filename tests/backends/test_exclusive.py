"""Reading a database that another program has locked exclusively."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Holds an exclusive lock for some seconds, or until it is killed.
HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode=EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Lock ``path`` exclusively in another process."""
    command = [sys.executable, "-S", "-c", HOLDER, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("command", [["current"], ["check", "--json"], ["upgrade"]])
def test_a_wait_for_an_exclusive_lock_is_reported(command: list[str], token_db: Path) -> None:
    """A command that waits says so after a second, with the longest time, and then succeeds."""
    program = [sys.executable, "-m", "nextcloud_mcp_server", "db", *command, "-d", str(token_db)]
    with locked(token_db, 3):
        begun = time.monotonic()
        result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
        waited = time.monotonic() - begun
    assert (result.returncode, waited > 1.5) == (0, True), result.stderr
    told = [line for line in result.stderr.splitlines() if "waiting for it" in line]
    assert len(told) == 1
    assert str(token_db) in told[0]
    assert "30 seconds" in told[0]
    assert "waiting for it" not in result.stdout


def test_a_free_database_is_not_reported(token_db: Path) -> None:
    """Without a wait, nothing is printed on stderr."""
    program = [sys.executable, "-m", "nextcloud_mcp_server", "db", "current", "-d", str(token_db)]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", ["current", "doctor"])
def test_ctrl_c_ends_the_wait(command: str, token_db: Path) -> None:
    """It need not wait for the other program, nor for the longest time."""
    program = [sys.executable, "-m", "nextcloud_mcp_server", "db", command, "-d", str(token_db)]
    with locked(token_db, 60), subprocess.Popen(program, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"waiting for it" in process.stderr.readline()
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert time.monotonic() - begun < 10
