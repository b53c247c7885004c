"""The lock of an engine: one process at a time migrates, and a killed one holds no lock."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.startup import prepare
from tests.backends.contract.engines import Engine

#: Imports everything, waits for a line, then starts; prints what was done.
_START = """
import sys
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate import run, startup
{broken}
print("loaded", flush=True)
sys.stdin.readline()
print(startup.prepare(connect(sys.argv[1])).action)
"""

#: Holds the lock until it is killed.
_HOLD = """
import sys, time
from nextcloud_mcp_server.backends.connect import connect
with connect(sys.argv[1]).lock(5) as locked:
    locked.announce("doing something long")
    print("held", flush=True)
    time.sleep(60)
"""


def _process(code: str, place: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline()
    return process


def _race(place: str, broken: str = "") -> Sequence[str]:
    """Start five processes at once; return the action of each."""
    code = _START.format(broken=broken)
    with ThreadPoolExecutor(5) as threads:
        processes = list(threads.map(lambda _: _process(code, place), range(5)))
        return [out.strip() for out, _ in threads.map(lambda p: p.communicate("go\n"), processes)]


def test_of_five_processes_one_migrates(place: str) -> None:
    """The others wait and do nothing."""
    assert Counter(_race(place)) == {"create": 1, "nothing": 4}


def test_without_a_lock_several_migrate(place: str, engine: Engine) -> None:
    """Negative control: without the lock the race is detected."""
    assert Counter(_race(place, engine.no_lock)) != {"create": 1, "nothing": 4}


def test_a_killed_holder_frees_the_lock(database: Database, place: str) -> None:
    """Nothing expires and nothing must be cleaned up."""
    holder = _process(_HOLD, place)
    holder.kill()
    holder.communicate()
    with database.lock(5) as locked:
        assert (locked.unlocked, locked.read_only) == ("", "")


def test_a_timeout_names_the_holder(database: Database, place: str) -> None:
    """After the timeout the error has the process and its activity."""
    holder = _process(_HOLD, place)
    try:
        with pytest.raises(TokenStorageError) as caught, database.lock(0.2):
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert caught.value.code == "lock-timeout"
    assert str(holder.pid) in caught.value.message
    assert "doing something long" in caught.value.message


def test_a_cancelled_wait_ends(database: Database) -> None:
    """A cancelled wait does not continue until the timeout."""
    with database.lock(5), ThreadPoolExecutor(1) as other:

        def wait() -> str:
            with pytest.raises(TokenStorageError) as caught, database.lock(60, lambda: True):
                pass
            return caught.value.code

        assert other.submit(wait).result(10) == "interrupted"


def test_processes_that_only_inspect_share_it(database: Database, engine: Engine) -> None:
    """Two shared holders do not wait for each other; an exclusive one waits for both, on a file.

    On a server nothing is locked to inspect: one moment of the database is read.
    """
    prepare(database)
    codes = []

    def exclusive() -> None:
        try:
            with database.lock(0.05):
                codes.append("")
        except TokenStorageError as error:
            codes.append(error.code)

    with database.lock(1, shared=True), database.lock(0.05, shared=True):
        thread = threading.Thread(target=exclusive)
        thread.start()
        thread.join()
    exclusive()
    assert codes == ["lock-timeout" if engine.is_file else "", ""]
