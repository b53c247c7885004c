"""Run Python code as the user ``nobody``, because root ignores file modes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]

# Everything is imported and runs once before the user changes: another user may not be able
# to read the files of the interpreter.
_PREAMBLE = """
import asyncio, os, pwd, resource, shlex, sys, tempfile
from pathlib import Path
from platformdirs import user_data_path
from nextcloud_mcp_server import settings
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from tests.support.by_path import downgrade, prepare, stamp

KEY = "dGVzdHMtc3VwcG9ydC1maXhlZC1rZXktMDEyMzQ1Njc="

async def warm_up(path):
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.list_user_ids()

with tempfile.TemporaryDirectory() as folder:
    asyncio.run(warm_up(Path(folder, "t.db")))
    downgrade(Path(folder, "t.db"), "009")
    back_up(Path(folder, "t.db"))
    diagnose(settings.Settings(Path(folder, "t.db")))
    user_data_path("warm-up")
os.setgroups([])
os.setgid(USER)
os.setuid(USER)
"""

#: The user and the group that the code runs as.
NOBODY: Final = 65534


def as_nobody(code: str, *arguments: object, user: int = NOBODY) -> str:
    """Run ``code`` as ``nobody`` or ``user``, with the imports done, and return what it prints.

    Skips the test if this process is not root.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    done = subprocess.run(
        [sys.executable, "-c", f"USER = {user}{_PREAMBLE}{code}", *map(str, arguments)],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="tokens-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
