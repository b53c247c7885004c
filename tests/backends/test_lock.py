"""The lock's contract: of any number exactly one holds it, and it dies with its holder."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import lock as module
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock, guard, holder, lock_path
from tests.support.child import child
from tests.support.errors import refused
from tests.support.unprivileged import ROOT

_HOLDER = """
import sys
from pathlib import Path
from nextcloud_mcp_server.backends.sqlite.lock import guard

def work():
    with guard(Path(sys.argv[1]), 30) as held:
        held.announce("holding it")
        print("held", flush=True)
        if sys.stdin.readline() == "count\\n":
            counter = Path(sys.argv[2])
            for _ in range(50):
                counter.write_text(str(int(counter.read_text()) + 1))
    print("free", flush=True)

print("ready", flush=True)
sys.stdin.readline()
work()
"""


@contextmanager
def other_thread(database: Path) -> Iterator[None]:
    """Hold the lock in another thread, with an announcement."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with guard(database, 0) as lock:
            lock.announce("upgrading it from revision 006 to 010")
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_of_five_processes_one_at_a_time_holds_it(tmp_path: Path) -> None:
    """Five that race and each count to fifty in one file count to 250 together."""
    database, counter = tmp_path / "tokens.db", tmp_path / "counter"
    counter.write_text("0")
    with ExitStack() as stack:
        processes = [stack.enter_context(child(_HOLDER, database, counter)) for _ in range(5)]
        for process in processes:
            process.tell()
            process.tell("count")
        for process in processes:
            assert [process.answer(), process.answer()] == ["held", "free"]
    assert counter.read_text() == "250"


def test_it_dies_with_its_holder(tmp_path: Path) -> None:
    """A killed holder frees the lock, and the next holder is not described as the dead one."""
    database = tmp_path / "tokens.db"
    with child(_HOLDER, database) as process:
        assert process.ask("") == "held"
        assert refused(lambda: _hold(database, 0)).code == "lock-timeout"
        process.kill()
    assert "holding it" in lock_path(database).read_text()
    with guard(database, 5):
        assert holder(lock_path(database)) == "another process is starting on it"


def _hold(database: Path, timeout: float) -> None:
    with guard(database, timeout) as held:
        assert held.problem == ""


def test_the_file_stays_private_and_empty(tmp_path: Path) -> None:
    """It is 0600 whatever the umask, never deleted, and empty while the lock is free."""
    database = tmp_path / "tokens.db"
    umask = os.umask(0)
    try:
        with guard(database, 0) as held:
            held.announce("upgrading it")
            inode = lock_path(database).stat().st_ino
    finally:
        os.umask(umask)
    after = lock_path(database).stat()
    assert (after.st_ino, after.st_mode & 0o777, after.st_size) == (inode, 0o600, 0)
    _hold(database, 0)
    assert lock_path(database).stat().st_ino == inode


def test_a_timeout_names_the_holder(tmp_path: Path) -> None:
    """Who waited in vain reads the process, its host, since when and what it does."""
    database = tmp_path / "tokens.db"
    with other_thread(database):
        error = refused(lambda: _hold(database, 0.02))
    assert error.code == "lock-timeout"
    assert f"process {os.getpid()} on {os.uname().nodename}" in error.message
    assert "has been upgrading it from revision 006 to 010 since 20" in error.message
    assert "0.02 seconds" in error.message


def test_who_waits_is_told_and_then_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A waiting process logs the holder every few seconds, until it has the lock."""
    monkeypatch.setattr(module, "TELL_INTERVAL", 0.02)
    database = tmp_path / "tokens.db"
    waiter = threading.Thread(target=_hold, args=(database, 30))
    with caplog.at_level(logging.WARNING), other_thread(database):
        waiter.start()
        deadline = time.monotonic() + 20
        while len(caplog.records) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    waiter.join(30)
    assert not waiter.is_alive()
    assert "upgrading it from revision 006 to 010" in caplog.text


def test_a_cancelled_wait_ends_at_once(tmp_path: Path) -> None:
    """A cancelled wait does not continue until the deadline."""
    database = tmp_path / "tokens.db"
    asked = iter([False, False, True, True, True])

    def wait() -> None:
        with guard(database, 600, lambda: next(asked)):
            raise AssertionError("nobody can hold it")

    with other_thread(database):
        error = refused(wait)
    assert error.code == "interrupted"


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b"\xff\xfe", b"[]", b"7", b'"text"', b"{}", b'{"pid": 1}', b"[" * 100_000,
     b'{"pid": 1, "host": "x", "since": "y", "doing'],
)  # fmt: skip
def test_a_lock_file_with_anything_in_it_is_a_lock_file(content: bytes, tmp_path: Path) -> None:
    """Any content can be locked, and readable content describes the holder."""
    database = tmp_path / "tokens.db"
    lock_path(database).write_bytes(content)
    assert holder(lock_path(database)) == "another process is starting on it"
    _hold(database, 0)
    assert lock_path(database).read_bytes() == b""


def test_the_announcement_is_json(tmp_path: Path) -> None:
    """Other programs can read who holds the lock."""
    database = tmp_path / "tokens.db"
    with guard(database, 0) as held:
        held.announce("first, which is the longer of both")
        held.announce("second")
        said = json.loads(lock_path(database).read_text())
    assert said.keys() == {"pid", "host", "since", "doing"}
    assert (said["pid"], said["doing"]) == (os.getpid(), "second")


def test_nothing_is_announced_without_a_lock() -> None:
    """Without a lock file, an announcement does nothing."""
    MigrationLock("read-only").announce("anything")


def test_an_error_inside_gives_the_lock_back(tmp_path: Path) -> None:
    """Whatever is raised under the lock passes through, and the next one gets it."""
    database = tmp_path / "tokens.db"

    def fail() -> None:
        with guard(database, 0):
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail()
    _hold(database, 0)


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """A link in the place of the lock would lock, and empty, another file."""
    database = tmp_path / "tokens.db"
    victim = tmp_path / "victim"
    victim.write_text("content")
    lock_path(database).symlink_to(victim)
    assert refused(lambda: _hold(database, 0)).code == "bad-path"
    assert victim.read_text() == "content"


def test_a_child_that_was_forked_does_not_keep_it(tmp_path: Path) -> None:
    """A process that inherits the descriptor does not hold on to what its parent gave back."""
    database = tmp_path / "tokens.db"
    code = """
import os, sys
from pathlib import Path
from nextcloud_mcp_server.backends.sqlite.lock import guard

database = Path(sys.argv[1])
reading, writing = os.pipe()
with guard(database, 0):
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
with guard(database, 0):
    print("mine again")
os.write(writing, b"x")
os.waitpid(child, 0)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(database)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout.strip() == "mine again"
