"""Places and states that a database may be found in, each made in an empty folder."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Final

from tests.faults.forbidden import (
    closed_folder,
    foreign_lock,
    full_disk,
    no_parent,
    read_only_file,
    read_only_folder,
    read_only_mount,
    unreadable,
)
from tests.faults.place import Maker, Place

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
    """Another program has it open for itself alone, and does not let go."""
    path = folder / "tokens.db"
    # A process of its own: reading the file in this one would end this one's locks.
    command = [sys.executable, "-S", "-c", _LOCK, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield Place(path, refused=True, environ={"BUSY_TIMEOUT": "0.5"})
        process.communicate()


def migrating(folder: Path) -> Iterator[Place]:
    """Another process holds the lock beside it."""
    path = folder / "tokens.db"
    with path.with_name("tokens.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Place(path, environ={"TOKEN_STORAGE_LOCK_TIMEOUT": "0.5"})


def beside(what: str, suffix: str) -> Maker:
    """A folder, or noise, lies where SQLite or the program has a file of its own."""

    def maker(folder: Path) -> Iterator[Place]:
        path = folder / f"tokens.db{suffix}"
        if what == "folder":
            path.mkdir()
        else:
            path.write_bytes(bytes(range(1, 256)) * 33)
        yield Place(folder / "tokens.db")

    return maker


def symbolic_link(folder: Path) -> Iterator[Place]:
    """The name is a link to the file, in another folder."""
    (folder / "elsewhere").mkdir()
    real = (folder / "tokens.db").rename(folder / "elsewhere" / "real.db")
    (folder / "tokens.db").symlink_to(real)
    yield Place(folder / "tokens.db")


def hard_link(folder: Path) -> Iterator[Place]:
    """The file has a second name."""
    (folder / "other.db").hardlink_to(folder / "tokens.db")
    yield Place(folder / "tokens.db")


def not_utf8(folder: Path) -> Iterator[Place]:
    """Its name is no text."""
    yield Place((folder / "tokens.db").rename(folder / os.fsdecode(b"tok\xff\xfeens.db")))


def line_break(folder: Path) -> Iterator[Place]:
    """Its name has two lines, the second of which looks like an error."""
    yield Place((folder / "tokens.db").rename(folder / "tokens.db\nerror: all is lost"))


def other_clock(ahead: int) -> Maker:
    """The clock is wrong by years."""
    return lambda folder: iter([Place(folder / "tokens.db", clock=ahead)])


def cut(length: float) -> Maker:
    """The end is missing: ``length`` is what is left, a part of it, or what is gone (below 0)."""

    def maker(folder: Path) -> Iterator[Place]:
        path = folder / "tokens.db"
        size = path.stat().st_size
        left = size * length if 0 < length < 1 else length if length > 0 else size + length
        os.truncate(path, int(left) // 4096 * 4096 if left > 9000 else int(left))
        yield Place(path, refused=True)

    return maker


def flipped(page: int) -> Maker:
    """The middle of one page is other bytes."""

    def maker(folder: Path) -> Iterator[Place]:
        path = folder / "tokens.db"
        content = bytearray(path.read_bytes())
        for offset in range(page * 4096 + 40, page * 4096 + 4096, 3):
            content[offset] ^= 0x5A
        path.write_bytes(content)
        yield Place(path)

    return maker


def named_socket(folder: Path) -> Iterator[Place]:
    """It is a socket with a name."""
    before = Path.cwd()
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        # A socket's whole path is short.
        os.chdir(folder)
        try:
            listening.bind("tokens.db")
        finally:
            os.chdir(before)
        yield Place(folder / "tokens.db", refused=True)


def endless(folder: Path) -> Iterator[Place]:
    """A file that is nothing but its size."""
    path = folder / "tokens.db"
    path.touch()
    os.truncate(path, 8 << 30)
    yield Place(path, refused=True)


#: Around a database at head, or behind, which lies in the folder already.
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


#: Where there is no database.
ALONE: Final[Mapping[str, Maker]] = {
    "a parent that cannot be made": no_parent,
    "a socket": named_socket,
    "eight gigabytes of nothing": endless,
    "a file of the kernel's": lambda _: iter([Place(Path("/proc/version"))]),
}
