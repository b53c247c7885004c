"""A file that is nothing but a ``flock``, which a forked child does not keep."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final
from weakref import WeakSet

from nextcloud_mcp_server.filesystem.files import hand_over

#: Not through a link that somebody put there, not to a child program, and not for a pipe.
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Hold:
    """A lock, or a share of one, until it is released; a forked child does not keep it."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open file that is locked already."""
        self.descriptor = descriptor
        _holds.add(self)

    def release(self) -> None:
        """Give it back. Safe to call twice."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            # Closing is unlocking: no other descriptor is of this open file.
            os.close(descriptor)


_holds: WeakSet[Hold] = WeakSet()


def _leave_to_the_parent() -> None:
    for hold in list(_holds):
        with suppress(OSError):
            hold.release()


os.register_at_fork(after_in_child=_leave_to_the_parent)


def open_lock(path: Path, flags: int = 0) -> int:
    """Open a file that is nothing but a lock; OSError where something else lies there."""
    descriptor = os.open(path, _FLAGS | flags, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is no regular file")
    return descriptor


def make_lock(path: Path, database: Path) -> int:
    """The same, made where it is not there, for whoever ``database`` belongs to."""
    if os.geteuid() == 0:
        with suppress(FileExistsError):
            descriptor = open_lock(path, os.O_CREAT | os.O_EXCL)
            # A lock that only root may use is better than none.
            with suppress(OSError):
                hand_over(descriptor, database)
            return descriptor
    return open_lock(path, os.O_CREAT)
