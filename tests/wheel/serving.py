"""Start the installed server and wait until it is ready."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.wheel.conftest import Installed


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(port: int, server: subprocess.Popen[str]) -> Any:
    """Answer what ``/health/ready`` says, as soon as it says yes."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/health/ready", timeout=5
            ) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    server.kill()
    raise AssertionError(server.communicate())


@contextmanager
def serving(
    installed: Installed, folder: Path, **settings: str
) -> Iterator[tuple[Any, subprocess.Popen[str]]]:
    """Start the installed server in ``folder`` and wait until it says that it is ready.

    Yields what ``/health/ready`` answered, and the process; it is killed if it still runs.
    """
    port = _free_port()
    server = subprocess.Popen(
        [installed.script, "--port", str(port)],
        cwd=folder,
        env=installed.environment(**settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _ready(port, server), server
    finally:
        if server.poll() is None:
            server.kill()
        server.communicate()
