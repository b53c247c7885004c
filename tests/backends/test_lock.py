"""The lock file: private, emptied when it is released, with the holder as JSON while it is held."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import lock as module
from nextcloud_mcp_server.backends.sqlite.lock import MigrationLock, guard, holder, lock_path
from tests.support.child import run_python
from tests.support.errors import refused, refuses


@contextmanager
def other_thread(database: Path) -> Iterator[None]:
    """Hold the lock in another thread, with an announced activity."""
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


def _hold(database: Path, timeout: float) -> None:
    with guard(database, timeout) as held:
        assert held.problem == ""


def test_the_file_is_private_and_stays(tmp_path: Path) -> None:
    """Its mode is 0600 with any umask; it is never deleted, and empty while the lock is free."""
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
    """The error names the process, its host, its activity and since when it holds the lock."""
    database = tmp_path / "tokens.db"
    with other_thread(database):
        error = refused(lambda: _hold(database, 0.02))
    assert error.code == "lock-timeout"
    assert f"process {os.getpid()} on {os.uname().nodename}" in error.message
    assert "has been upgrading it from revision 006 to 010 since 20" in error.message
    assert "0.02 seconds" in error.message


def test_the_holder_is_logged_during_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A waiting process logs the holder every few seconds, until it gets the lock."""
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


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 4096, b'{"p', b'{"pid": 1}', b'{"pid": 1, "host": "x", "since": "y", "doing'],
)
def test_what_a_crash_left_of_an_announcement_is_deleted(content: bytes, tmp_path: Path) -> None:
    """An incomplete announcement names no holder and is deleted by the next one."""
    database = tmp_path / "tokens.db"
    lock_path(database).write_bytes(content)
    assert holder(lock_path(database)) == "another process is starting on it"
    _hold(database, 0)
    assert lock_path(database).read_bytes() == b""


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "content",
    [b"\0" * 5000, b"\xff\xfe", b"[]", b"7", b'"text"', b"{}", b'{"pid": 1' * 1000, b"name = 1"],
)
def test_other_content_is_of_another_program(content: bytes, shared: bool, tmp_path: Path) -> None:
    """A file that no lock of this program wrote is refused and left as it is."""
    database = tmp_path / "tokens.db"
    lock_path(database).write_bytes(content)
    with refuses("bad-path", "is the file of another program"), guard(database, 0, shared=shared):
        pass
    assert lock_path(database).read_bytes() == content


def test_the_announcement_is_json(tmp_path: Path) -> None:
    """The file describes the holder; what a killed holder left does not name the next one."""
    database = tmp_path / "tokens.db"
    left = {"pid": 1, "host": "h", "since": "s", "doing": "d"}
    lock_path(database).write_text(json.dumps(left))
    with guard(database, 0) as held:
        assert holder(lock_path(database)) == "another process is starting on it"
        held.announce("first, which is the longer of both")
        held.announce("second")
        content = json.loads(lock_path(database).read_text())
    assert content.keys() == {"pid", "host", "since", "doing"}
    assert (content["pid"], content["doing"]) == (os.getpid(), "second")


def test_nothing_is_announced_without_a_lock() -> None:
    """Without a lock file, an announcement does nothing."""
    MigrationLock("read-only").announce("anything")


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Locking through a link would lock and empty another file."""
    database = tmp_path / "tokens.db"
    victim = tmp_path / "victim"
    victim.write_text("content")
    lock_path(database).symlink_to(victim)
    assert refused(lambda: _hold(database, 0)).code == "bad-path"
    assert victim.read_text() == "content"


def test_a_forked_child_does_not_hold_it(tmp_path: Path) -> None:
    """A child that inherits the descriptor does not keep the lock of its parent."""
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
    print("locked again")
os.write(writing, b"x")
os.waitpid(child, 0)
"""
    assert run_python(code, tmp_path / "tokens.db") == "locked again"
