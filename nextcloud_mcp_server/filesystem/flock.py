"""Lock files: ``flock(2)`` on a file that has no other use.

A ``flock`` belongs to the open file, so two stores of one process hold one each, and the
kernel frees it when the process ends, however that happens. (POSIX locks belong to the
process: closing any descriptor of the file drops them. Linux uses them for ``flock`` on NFS.)
The trap is ``fork``: the child shares the open file and would hold the lock as long as it
lives. It closes its descriptor, and must not unlock, which would unlock the parent's too.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet

from nextcloud_mcp_server.filesystem.files import hand_over

#: Do not follow a link, do not pass it to a child program, and do not wait for a pipe.
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Hold:
    """A lock, or a share of one, until it is released; a forked child does not keep it."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open file that is locked already."""
        self.descriptor = descriptor
        _holds.add(self)

    def release(self) -> None:
        """Release it. Safe to call twice."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            # Closing also unlocks: this open file has no other descriptor.
            os.close(descriptor)


_holds: WeakSet[Hold] = WeakSet()


def _release_in_child() -> None:
    for hold in list(_holds):
        with suppress(OSError):
            hold.release()


os.register_at_fork(after_in_child=_release_in_child)


def acquire(path: Path, database: Path, *, shared: bool) -> Hold | None:
    """Lock the file ``path``, which is created if missing; None if another holds the lock.

    The file is private, and never deleted by this program. If root creates it, it gets the
    owner of ``database``. A ``shared`` lock can have several holders.

    Raises:
        OSError: the file cannot be created, is not a regular file, or cannot be locked.
    """
    descriptor = _create(path, database)
    try:
        if try_lock(descriptor, shared=shared) and _is_at(descriptor, path):
            return Hold(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def try_lock(descriptor: int, *, shared: bool) -> bool:
    """Lock an open file without waiting; False if another holds the lock.

    Raises:
        OSError: the file system cannot lock.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        # Some file systems report a held lock as "not permitted".
        return False
    return True


def open_lock(path: Path | str, flags: int = 0) -> int:
    """Open a lock file.

    Raises:
        OSError: it does not exist, or is not a regular file.
    """
    descriptor = os.open(path, _FLAGS | flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    return descriptor


def _create(path: Path, database: Path) -> int:
    # It is seldom missing.
    with suppress(FileNotFoundError):
        return open_lock(path)
    if os.geteuid() == 0:
        with suppress(FileExistsError):
            descriptor = open_lock(path, os.O_CREAT | os.O_EXCL)
            # A lock that only root can use is better than none.
            with suppress(OSError):
                hand_over(descriptor, database)
            return descriptor
    return open_lock(path, os.O_CREAT)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return False if the file was deleted since it was opened: no other process can see it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # noqa: PTH116 - faster than a Path
    except FileNotFoundError:
        return False
