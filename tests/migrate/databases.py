"""Steps of the tests of a start."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tests.cli.places import rows

T = TypeVar("T")


def versions(path: Path) -> list[str]:
    """Return the version rows of a file."""
    return [version for (version,) in rows(path, "SELECT version_num FROM alembic_version")]


def in_thread(call: Callable[[], T]) -> T:
    """Call in another thread, which must wait for a lock of this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def crash_in_a_write(path: Path) -> None:
    """Kill a writer in its transaction, so that a hot journal stays."""
    code = (
        "import os, signal, sqlite3, sys; "
        "c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN'); "
        "c.execute('DELETE FROM audit_logs'); c.execute('DELETE FROM refresh_tokens'); "
        "c.execute('DROP TABLE browser_sessions'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
