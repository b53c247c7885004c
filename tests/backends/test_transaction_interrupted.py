"""Ctrl-C while a migration opens its connection."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.base import Transaction
from nextcloud_mcp_server.backends.sqlite.transaction import transact
from nextcloud_mcp_server.progress import silent
from tests.cli.places import execute

#: Sends Ctrl-C while the thread of aiosqlite is opening the file.
CODE = """
import os, signal, sqlite3, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)
connect = sqlite3.connect

def interrupted(*arguments, **options):
    if threading.current_thread() is not threading.main_thread():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
    return connect(*arguments, **options)

sqlite3.Connection = interrupted
from nextcloud_mcp_server.migrations import upgrade_database
try:
    upgrade_database(sys.argv[1])
finally:
    time.sleep(0.4)  # the thread ends before the process
"""


def test_an_interrupted_migration_leaves_no_backup(path: Path) -> None:
    """The database is as it was, and each repetition would leave one more."""
    path.touch()

    def work(transaction: Transaction) -> None:
        transaction.execute("CREATE TABLE example (x)")
        made = transaction.backup(None, action="upgrade", keys=None, report=silent)
        assert made is not None
        assert made.exists()
        raise KeyboardInterrupt

    execute(path, "CREATE TABLE before (x)")
    with pytest.raises(KeyboardInterrupt):
        transact(path, work)
    assert not list(path.parent.glob("*.backup-*"))


def test_an_interrupted_opening_leaves_no_thread_behind(tmp_path: Path) -> None:
    """The event loop is closed only after the thread has answered to it."""
    path = tmp_path / "tokens.db"
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "Exception in thread" not in done.stderr
    assert "Event loop is closed" not in done.stderr
