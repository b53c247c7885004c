"""Ctrl-C while a migration opens its connection."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

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
