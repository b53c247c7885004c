"""Run Python code as the user ``nobody``, because root ignores file modes."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[2]

# Everything is imported and runs once before the user changes: another user may not be able
# to read the files of the interpreter. Each program is a fork of it.
_SERVER = """
import asyncio, grp, json, os, pwd, resource, shlex, signal, sys, tempfile
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

for line in sys.stdin:
    program = json.loads(line)
    if pid := os.fork():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(status, flush=True)
        continue
    signal.alarm(60)
    for descriptor, name in ((1, "output"), (2, "errors")):
        opened = os.open(program[name], os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv[1:] = program["arguments"]
    os.setgroups([])
    os.setgid(program["user"])
    os.setuid(program["user"])
    exec(program["code"])
    break
"""

#: The user and the group that the code runs as.
NOBODY: Final = 65534


@cache
def _server() -> subprocess.Popen[str]:
    """Start the process that forks the programs; it ends with this one."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def as_nobody(code: str, *arguments: object, user: int = NOBODY) -> str:
    """Run ``code`` as ``nobody`` or ``user``, with the imports done, and return what it prints.

    Skips the test if this process is not root.
    """
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    stdin, stdout = _server().stdin, _server().stdout
    assert stdin is not None
    assert stdout is not None
    with tempfile.NamedTemporaryFile() as output, tempfile.NamedTemporaryFile() as errors:
        program = {
            "code": code,
            "arguments": [*map(str, arguments)],
            "user": user,
            "output": output.name,
            "errors": errors.name,
        }
        stdin.write(json.dumps(program) + "\n")
        stdin.flush()
        status = stdout.readline().strip()
        assert status == "0", Path(errors.name).read_text("utf-8")
        return Path(output.name).read_text("utf-8").strip()


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="tokens-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
