"""Children that are forked while another thread of the parent starts or migrates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.child import ROOT

_PROGRAM = """
import asyncio, sys, threading, time, warnings
from pathlib import Path
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.support.contents import KEY
from tests.support.forks import Fork

folder, first, pause = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
ended = threading.Event()

async def use(path):
    async with asyncio.timeout(60), RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "token")
        return await storage.list_user_ids()

def migrate():
    number = 0
    while not ended.is_set():
        asyncio.run(use(folder / f"parent-{number}.db"))
        number += 1

if first == "imported":
    asyncio.run(use(folder / "first.db"))
thread = threading.Thread(target=migrate)
thread.start()
children = []
for number in range(12):
    time.sleep(pause)
    children.append(Fork(lambda: asyncio.run(use(folder / f"child-{number}.db"))))
ended.set()
for child in children:
    print(child.result())
thread.join()
"""


_IMPORTING = """
import sys, threading, time
from pathlib import Path
from nextcloud_mcp_server import forks  # the first module that the others import
from tests.support.forks import Fork

folder, module = Path(sys.argv[1]), sys.argv[2]

def use(path):
    import asyncio
    from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
    from tests.support.contents import KEY

    async def main():
        async with asyncio.timeout(60), RefreshTokenStorage(path, encryption_key=KEY) as storage:
            return await storage.list_user_ids()

    return asyncio.run(main())

thread = threading.Thread(target=__import__, args=(module,))
thread.start()
children = []
while thread.is_alive() and len(children) < 12:
    time.sleep(0.02)
    children.append(Fork(lambda: use(folder / f"child-{len(children)}.db")))
print({child.result() for child in children})
"""


@pytest.mark.parametrize(
    "module", ["nextcloud_mcp_server.auth.storage", "nextcloud_mcp_server.migrations"]
)
def test_children_beside_an_import_by_another_thread(module: str, tmp_path: Path) -> None:
    """The fork waits until no module of this package is half imported."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING, str(tmp_path), module],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("{'[]'}\n", 0), done.stderr


@pytest.mark.parametrize(("first", "pause"), [("imported", 0.02), ("cold", 0.05)])
def test_twelve_children_beside_a_migration(first: str, pause: float, tmp_path: Path) -> None:
    """Each child opens a database of its own, also if the parent was importing at the fork."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), first, str(pause)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.splitlines() == ["['alice']"] * 12, done.stderr
    assert done.returncode == 0
