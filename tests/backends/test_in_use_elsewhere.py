"""A store that is open in another PID namespace is told as such."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nextcloud_mcp_server.migrations import upgrade_database
from tests.backends.test_in_use import OPEN
from tests.cli.places import environment
from tests.support.child import child
from tests.support.contents import KEY


def test_a_server_of_another_pid_namespace_is_told_as_one(path: Path) -> None:
    """Its number has no meaning here: the message says so, and names its host and its time."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root can make a PID namespace")
    if subprocess.run([*unshare, "true"], check=False).returncode:
        pytest.skip("no PID namespace can be made here")
    upgrade_database(path)
    stamp = ["db", "stamp", "base", "-d", str(path)]
    with child(OPEN, path, KEY) as server:
        done = subprocess.run(
            [*unshare, sys.executable, "-m", "nextcloud_mcp_server", *stamp],
            env=environment(path.parent),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    unseen = "its process is not visible here: it may be in another container or on another host"
    who = f"last opened by process {server.process.pid} on {socket.gethostname()} at "
    assert f"A server is running on {path} ({unseen}; {who}" in done.stderr
