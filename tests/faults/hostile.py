"""Hostile locations of a database: forbidden, full, locked, damaged or no file at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.migrations import upgrade_database
from tests.support import shapes
from tests.support.unprivileged import NOBODY


@dataclass(frozen=True)
class Place:
    """The path of a database, and how the program runs on it.

    Attributes:
        refused: whether no command may serve, upgrade or read it.
        clock: seconds that the clock is ahead.
        codes: the possible error codes; empty if any is possible.
    """

    path: Path
    refused: bool = False
    user: int = 0
    clock: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)
    codes: tuple[str, ...] = ()


#: Creates a place in an empty folder, and removes what removing the folder would not.
Maker = Callable[[Path], Iterator[Place]]


class Models:
    """A database at head and an older one, created once and copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head, self.old = folder / "head.db", folder / "old.db"
        shapes.at("010").write(self.head)
        upgrade_database(self.head)
        shapes.at("005", "raw").write(self.old)

    def put(self, kind: str, folder: Path) -> Path:
        """Copy the database of this kind to ``folder/tokens.db``."""
        path = folder / "tokens.db"
        shutil.copyfile(self.folder / f"{kind}.db", path)
        path.chmod(0o600)
        return path


def for_nobody(folder: Path, mode: int) -> Path:
    """Give the database and its folder, with this mode, to the user ``nobody``."""
    root_only()
    path = folder / "tokens.db"
    os.chown(path, NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(mode)
    return path


def root_only() -> None:
    """Skip the test if this process is not root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user, or mount a disk")


def read_only_folder(folder: Path) -> Iterator[Place]:
    """The folder is read-only, the file is not."""
    yield Place(for_nobody(folder, 0o555), user=NOBODY)


def read_only_file(folder: Path) -> Iterator[Place]:
    """The file is read-only, the folder is not."""
    path = for_nobody(folder, 0o755)
    os.chown(path, 0, 0)
    path.chmod(0o444)
    yield Place(path, user=NOBODY)


def unreadable(folder: Path) -> Iterator[Place]:
    """The file belongs to another user and is private."""
    path = for_nobody(folder, 0o755)
    os.chown(path, 0, 0)
    yield Place(path, refused=True, user=NOBODY, codes=("bad-path",))


def closed_folder(folder: Path) -> Iterator[Place]:
    """The folder belongs to another user and is private."""
    path = for_nobody(folder, 0o700)
    os.chown(folder, 0, 0)
    yield Place(path, refused=True, user=NOBODY)


def no_parent(folder: Path) -> Iterator[Place]:
    """The folder does not exist and the user may not create it."""
    root_only()
    folder.chmod(0o755)
    yield Place(folder / "new" / "tokens.db", user=NOBODY)


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Path]:
    root_only()
    target = folder / "disk"
    target.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(target)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield target
    finally:
        subprocess.run(["umount", "--lazy", str(target)], check=True)


def read_only_mount(folder: Path) -> Iterator[Place]:
    """The file system is mounted read-only."""
    with _mounted(folder, "size=2m") as disk:
        path = disk / "tokens.db"
        shutil.copy2(folder / "tokens.db", path)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield Place(path)


def full_disk(folder: Path) -> Iterator[Place]:
    """The disk is full."""
    with _mounted(folder, "size=1m") as disk:
        path = disk / "tokens.db"
        shutil.copy2(folder / "tokens.db", path)
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass
        # A stamp that does not match the tables is refused before.
        yield Place(path, codes=("disk-full", "inconsistent"))


def foreign_lock(folder: Path) -> Iterator[Place]:
    """The lock file belongs to another user and is private."""
    path = for_nobody(folder, 0o755)
    path.with_name("tokens.db.lock").touch(0o600)
    yield Place(path, user=NOBODY)


_LOCK: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA locking_mode=EXCLUSIVE")
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


TEN_YEARS: Final = 3652 * 24 * 3600


def locked(folder: Path) -> Iterator[Place]:
    """Another program holds an exclusive SQLite lock."""
    path = folder / "tokens.db"
    # In another process: reading the file in this one would release its locks.
    command = [sys.executable, "-S", "-c", _LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield Place(path, refused=True, environ={"BUSY_TIMEOUT": "0.5"})
        process.communicate()


def migrating(folder: Path) -> Iterator[Place]:
    """Another process holds the migration lock."""
    path = folder / "tokens.db"
    with path.with_name("tokens.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Place(path, environ={"TOKEN_STORAGE_LOCK_TIMEOUT": "0.5"})


def beside(what: str, suffix: str) -> Maker:
    """A folder or other bytes are in place of a file of SQLite or the program."""

    def maker(folder: Path) -> Iterator[Place]:
        path = folder / f"tokens.db{suffix}"
        if what == "folder":
            path.mkdir()
        else:
            path.write_bytes(bytes(range(1, 256)) * 33)
        yield Place(folder / "tokens.db")

    return maker


def symbolic_link(folder: Path) -> Iterator[Place]:
    """The path is a symbolic link to a file in another folder."""
    (folder / "elsewhere").mkdir()
    real = (folder / "tokens.db").rename(folder / "elsewhere" / "real.db")
    (folder / "tokens.db").symlink_to(real)
    yield Place(folder / "tokens.db")


def hard_link(folder: Path) -> Iterator[Place]:
    """The file has a second name."""
    (folder / "other.db").hardlink_to(folder / "tokens.db")
    yield Place(folder / "tokens.db")


def not_utf8(folder: Path) -> Iterator[Place]:
    """The name is not UTF-8."""
    yield Place((folder / "tokens.db").rename(folder / os.fsdecode(b"tok\xff\xfeens.db")))


def line_break(folder: Path) -> Iterator[Place]:
    """The name has two lines, the second like an error message."""
    yield Place((folder / "tokens.db").rename(folder / "tokens.db\nerror: all is lost"))


def other_clock(ahead: int) -> Maker:
    """The clock is wrong by years."""
    return lambda folder: iter([Place(folder / "tokens.db", clock=ahead)])


def cut(length: float) -> Maker:
    """The end is missing: ``length`` is the new size, its share, or the change if negative."""

    def maker(folder: Path) -> Iterator[Place]:
        path = folder / "tokens.db"
        size = path.stat().st_size
        left = size * length if 0 < length < 1 else length if length > 0 else size + length
        os.truncate(path, int(left) // 4096 * 4096 if left > 9000 else int(left))
        yield Place(path, refused=True)

    return maker


def flipped(page: int) -> Maker:
    """One page is damaged."""

    def maker(folder: Path) -> Iterator[Place]:
        path = folder / "tokens.db"
        content = bytearray(path.read_bytes())
        for offset in range(page * 4096 + 40, page * 4096 + 4096, 3):
            content[offset] ^= 0x5A
        path.write_bytes(content)
        yield Place(path)

    return maker


def named_socket(folder: Path) -> Iterator[Place]:
    """The path is a Unix socket."""
    before = Path.cwd()
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        # The path of a socket must be short.
        os.chdir(folder)
        try:
            listening.bind("tokens.db")
        finally:
            os.chdir(before)
        yield Place(folder / "tokens.db", refused=True)


def endless(folder: Path) -> Iterator[Place]:
    """The path is a sparse file of eight gigabytes."""
    path = folder / "tokens.db"
    path.touch()
    os.truncate(path, 8 << 30)
    yield Place(path, refused=True)


#: Places around an existing database.
AROUND: Final[Mapping[str, Maker]] = {
    "a folder that cannot be written": read_only_folder,
    "a file that cannot be written": read_only_file,
    "a file of another user": unreadable,
    "a folder of another user": closed_folder,
    "a mount that cannot be written": read_only_mount,
    "a full disk": full_disk,
    "locked by another program": locked,
    "being migrated by another process": migrating,
    "a lock file that is a folder": beside("folder", ".lock"),
    "a lock file of another user": foreign_lock,
    "a -wal that is a folder": beside("folder", "-wal"),
    "a -shm that is a folder": beside("folder", "-shm"),
    "a -journal that is a folder": beside("folder", "-journal"),
    "a -wal that is no WAL": beside("noise", "-wal"),
    "a -journal that is no journal": beside("noise", "-journal"),
    "a key that is a folder": beside("folder", ".key"),
    "a symbolic link": symbolic_link,
    "a hard link": hard_link,
    "a name that is not UTF-8": not_utf8,
    "a name with a line break": line_break,
    "a clock ten years ahead": other_clock(TEN_YEARS),
    "a clock ten years behind": other_clock(-TEN_YEARS),
    "the last page missing": cut(-4096),
    "half of it missing": cut(0.5),
    "only its first page": cut(4096),
    "only its header": cut(100),
    "cut off inside a page": cut(9000),
}


#: Places without a database.
ALONE: Final[Mapping[str, Maker]] = {
    "a parent that cannot be made": no_parent,
    "a socket": named_socket,
    "eight gigabytes of nothing": endless,
    "a file of the kernel's": lambda _: iter([Place(Path("/proc/version"))]),
}
