"""Places where a database may not be read or written, or where there is no room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.crowd import NOBODY
from tests.faults.place import Place


def for_nobody(folder: Path, mode: int) -> Path:
    """Give the database and its folder, of this mode, to a user without rights."""
    root_only()
    path = folder / "tokens.db"
    os.chown(path, NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(mode)
    return path


def root_only() -> None:
    """Skip where this user cannot become another, or mount a disk."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user, or mount a disk")


def read_only_folder(folder: Path) -> Iterator[Place]:
    """Its folder cannot be written, the file itself could."""
    yield Place(for_nobody(folder, 0o555), user=NOBODY)


def read_only_file(folder: Path) -> Iterator[Place]:
    """The file cannot be written, its folder could."""
    path = for_nobody(folder, 0o755)
    os.chown(path, 0, 0)
    path.chmod(0o444)
    yield Place(path, user=NOBODY)


def unreadable(folder: Path) -> Iterator[Place]:
    """The file belongs to somebody else, who lets nobody read it."""
    path = for_nobody(folder, 0o755)
    os.chown(path, 0, 0)
    yield Place(path, refused=True, user=NOBODY, codes=("bad-path",))


def closed_folder(folder: Path) -> Iterator[Place]:
    """The folder may not be entered."""
    path = for_nobody(folder, 0o700)
    os.chown(folder, 0, 0)
    yield Place(path, refused=True, user=NOBODY)


def no_parent(folder: Path) -> Iterator[Place]:
    """There is no folder, and this user may not make it."""
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
    """The disk cannot be written by anybody."""
    with _mounted(folder, "size=2m") as disk:
        path = disk / "tokens.db"
        shutil.copy2(folder / "tokens.db", path)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield Place(path)


def full_disk(folder: Path) -> Iterator[Place]:
    """There is no byte left."""
    with _mounted(folder, "size=1m") as disk:
        path = disk / "tokens.db"
        shutil.copy2(folder / "tokens.db", path)
        with (disk / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass
        # A stamp that the tables deny is refused before.
        yield Place(path, codes=("disk-full", "inconsistent"))


def foreign_lock(folder: Path) -> Iterator[Place]:
    """The lock file belongs to somebody else, who lets nobody open it."""
    path = for_nobody(folder, 0o755)
    path.with_name("tokens.db.lock").touch(0o600)
    yield Place(path, user=NOBODY)
