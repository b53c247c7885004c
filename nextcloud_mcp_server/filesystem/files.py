"""The file of a database: whether its path can be one, making it private.

The database file is never opened here once SQLite may have it open: closing any
descriptor of a file drops all POSIX locks that this process holds on it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.errors import naming

#: What is made beside a database has up to 80 bytes more in its name than the database: a
#: backup, while it is made, with SQLite's journal of it. File systems end at 255.
_LONGEST_NAME: Final = 175


def check_path(path: Path, longest: int = _LONGEST_NAME) -> None:
    """Check, without changing anything, that a database can lie at ``path``.

    Args:
        path: where it is to lie.
        longest: how many bytes its name may have.

    Raises:
        TokenStorageError: ``bad-path`` where it is no regular file, its folder is no
            folder, or its name is too long.
    """
    if len(os.fsencode(path.name)) > longest:
        raise _bad(f"The name of {path} is longer than {longest} bytes.")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise _bad(f"{path} is a link to a file that is not there.") from None
        _check_folder(path.parent)
        return
    except OSError as error:
        raise _bad(f"{path} cannot be looked at ({error.strerror}).") from error
    if not stat.S_ISREG(mode):
        raise _bad(f"{path} is {_kind(mode)}, not a file.")


def follow(path: Path) -> Path:
    """The file itself, where ``path`` is a link to it.

    SQLite puts its journal beside the file and not beside the link. So do the lock, the
    key and the backups: two names of one file must not make two of them.
    """
    return path.resolve() if path.is_symlink() else path


def names_of(path: Path) -> int:
    """Under how many names (hard links) the file lies; each has a lock and a journal of its own."""
    try:
        return path.stat().st_nlink
    except OSError:
        return 1


def _check_folder(folder: Path) -> None:
    for place in (folder, *folder.parents):
        if place.is_dir():
            return
        if place.exists() or place.is_symlink():
            raise _bad(f"{place} is not a folder.")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def _bad(message: str) -> TokenStorageError:
    return TokenStorageError(
        message,
        code="bad-path",
        remedy="Give the path of a regular file, in a folder that is there or can be made, "
        "in TOKEN_STORAGE_DB or -d.",
    )


def make_folder(path: Path) -> None:
    """Make the folder of ``path``, private to this user, where it is not there."""
    if path.parent.is_dir():
        return
    with naming(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def create_private(path: Path) -> None:
    """Make an empty file that only this user may read, unless one is there.

    SQLite gives ``-wal``, ``-shm`` and ``-journal`` the mode of the database: a chmod
    afterwards would leave them readable all through the first migration.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    with naming(path):
        try:
            os.close(os.open(path, flags, 0o600))
        except FileExistsError:
            return


def hand_over(descriptor: int, beside: Path) -> None:
    """Let a file that root has just made belong to whoever ``beside`` belongs to.

    A command that root typed must not lock the server's user out of its own database. Only
    for a file that this process has made: an old one may be a second name of another.

    Raises:
        OSError: the file system keeps no owners.
    """
    if os.geteuid() == 0:
        try:
            owner = beside.stat()
        except FileNotFoundError:
            return
        if (owner.st_uid, owner.st_gid) != (0, 0):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def sync(path: Path) -> None:
    """Have what a file holds, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name in ``folder`` survive a power cut."""
    sync(folder)
