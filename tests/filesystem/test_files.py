"""Paths that can be a database, and private files."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.filesystem import files, permissions
from tests.support.child import child
from tests.support.errors import refused
from tests.support.files import names
from tests.support.unprivileged import as_nobody, open_folder


def _socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(path))


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder": (lambda p: p.mkdir(), "is a folder, not a file"),
    "pipe": (os.mkfifo, "is a named pipe, not a file"),
    "socket": (_socket, "is a socket, not a file"),
    "device": (lambda p: p.symlink_to("/dev/full"), "is a device, not a file"),
    "dead link": (lambda p: p.symlink_to(p.with_name("gone")), "is a link to a file that is not"),
    "loop": (lambda p: p.symlink_to(p), "cannot be accessed"),
}


NO_FILES = {kind: KINDS[kind] for kind in ("folder", "pipe", "socket", "device")}


@pytest.mark.parametrize(("make", "word"), NO_FILES.values(), ids=NO_FILES.keys())
def test_a_small_file_is_a_regular_one(
    make: Callable[[Path], object], word: str, tmp_path: Path
) -> None:
    """Reading a pipe, a device, a socket or a folder fails at once, with its kind."""
    make(tmp_path / "key")
    with pytest.raises(OSError, match=word):
        files.read_small(tmp_path / "key", 100)


def test_a_small_file_is_small(tmp_path: Path) -> None:
    """A file is read whole up to the limit; a longer one is refused, however long it is."""
    path = tmp_path / "key"
    path.write_bytes(b"x" * 100)
    assert files.read_small(path, 100) == b"x" * 100
    os.truncate(path, 1 << 40)
    with pytest.raises(OSError, match="longer than 100 bytes"):
        files.read_small(path, 100)


def test_a_file_that_another_process_leases_is_not_waited_for(tmp_path: Path) -> None:
    """Opening a regular file can block too: a file server may hold a lease on it."""
    path = tmp_path / "key"
    path.write_bytes(b"key")
    code = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
sys.stdin.readline()
"""
    with child(code, path), pytest.raises(BlockingIOError):
        files.read_small(path, 100)


@pytest.mark.parametrize(("make", "word"), KINDS.values(), ids=KINDS.keys())
def test_what_is_no_regular_file_is_refused(
    make: Callable[[Path], object], word: str, tmp_path: Path
) -> None:
    """The error names the kind of the file, which is unchanged."""
    path = tmp_path / "t"
    make(path)
    before = path.lstat()
    refused(lambda: files.check_path(path), "bad-path", word)
    assert (path.lstat().st_mode, path.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A path that leads through a file, or through a dead link, leads nowhere."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for folder in ("file", "file/deeper", "link", "link/deeper"):
        assert refused(lambda f=folder: files.check_path(tmp_path / f / "t.db")).code == "bad-path"  # type: ignore[misc]


def test_a_file_or_nothing_is_accepted(tmp_path: Path) -> None:
    """A regular file, a link to one, and a path where one can be created are accepted."""
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for name in ("there", "link", "new", "deep/er/new"):
        files.check_path(tmp_path / name)
    assert names(tmp_path) == {"there", "link"}


def test_names_are_measured_in_bytes(tmp_path: Path) -> None:
    """A name of umlauts has two bytes for each character."""
    files.check_path(tmp_path / ("ü" * 87))
    assert refused(lambda: files.check_path(tmp_path / ("ü" * 88))).code == "bad-path"


def test_a_folder_that_may_not_be_entered_is_reported() -> None:
    """What this user may not see is not taken for what is not there."""
    code = """
from nextcloud_mcp_server.filesystem import files
try:
    files.check_path(Path(sys.argv[1]))
except TokenStorageError as error:
    print(error.code, error.message)
"""
    with open_folder() as folder:
        (folder / "closed").mkdir(mode=0o700)
        said = as_nobody(code, folder / "closed" / "tokens.db")
    assert said.startswith("bad-path")
    assert "Permission denied" in said


def test_a_new_file_is_private_and_an_old_one_is_left_alone(tmp_path: Path) -> None:
    """Made 0600 whatever the umask; a file or a link that is there keeps content and mode."""
    umask = os.umask(0)
    try:
        files.create_private(tmp_path / "new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    old = tmp_path / "old"
    old.write_text("content")
    old.chmod(0o640)
    files.create_private(old)
    assert (old.read_text(), stat.S_IMODE(old.stat().st_mode)) == ("content", 0o640)


def test_every_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of a file is absolute, and no link is part of it."""
    (tmp_path / "real.db").touch()
    (tmp_path / "link.db").symlink_to("real.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    assert files.follow(tmp_path / "link.db") == tmp_path / "real.db"
    assert files.follow(tmp_path / "folder" / "real.db") == tmp_path / "real.db"
    monkeypatch.chdir(tmp_path)
    assert files.follow(Path("link.db")) == tmp_path / "real.db"


def test_a_companion_that_comes_and_goes_closes_nothing(tmp_path: Path) -> None:
    """While other processes make and remove a -shm, the database can be written all the time."""
    path = tmp_path / "tokens.db"
    path.touch()
    shm, done = tmp_path / "tokens.db-shm", threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            shm.touch()
            shm.unlink()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        answers = {permissions.unwritable(path) for _ in range(5000)}
    finally:
        done.set()
        other.join()
    assert answers == {""}
