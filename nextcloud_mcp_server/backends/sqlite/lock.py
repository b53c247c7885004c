"""The migration lock: only one process at a time inspects and migrates a database.

The lock file lies beside the database (``tokens.db.lock``, mode 0600). It is never deleted:
two processes that wait for a deleted file would each get a lock of their own. The kernel
frees the lock with its process, so it needs no expiry time and no cleanup.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server import forks
from nextcloud_mcp_server.backends.base import WaitInterrupted
from nextcloud_mcp_server.backends.sqlite.errors import named
from nextcloud_mcp_server.errors import TokenStorageError, for_shell, moment
from nextcloud_mcp_server.filesystem.files import follow
from nextcloud_mcp_server.filesystem.flock import Hold, acquire, open_lock

logger = logging.getLogger(__name__)

#: The longest pause between two attempts, in seconds: with the usual 0.05 the slowest of 16
#: starts waits for more than half a second, with this a fifth of that.
POLL_INTERVAL: Final = 0.005

#: Seconds before the second attempt; doubled each time. A start at head is done by then.
_FIRST_PAUSE: Final = 0.0005

#: Seconds between two log lines of a waiting process.
TELL_INTERVAL: Final = 5.0

_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
#: How every announcement in a lock file begins.
_BEGINNING: Final = b'{"pid": '

#: The largest size of what this program writes into a lock file, in bytes.
LONGEST: Final = 4096

#: Why a file is not the lock.
FOREIGN: Final = "is the file of another program"
_IRREGULAR: Final = "is no regular file"

#: The errors of opening something that is not a regular file; 0 is raised by open_lock().
_NO_FILE: Final = frozenset({0, errno.EISDIR, errno.ELOOP, errno.ENXIO})
_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})


@dataclass
class MigrationLock:
    """The lock while it is held, or the reason why it cannot be.

    Attributes:
        problem: why there is no lock (``read-only`` or ``lock-unavailable``); empty if it
            is held. Without it a database can be inspected, but not changed.
        detail: what the operating system reported.
    """

    problem: str = ""
    detail: str = ""
    _descriptor: int = -1
    _written: bool = field(default=False, repr=False)

    def announce(self, doing: str) -> None:
        """Write into the lock file who holds it and for what; waiting processes log it."""
        if self._descriptor < 0:
            return
        now = moment(datetime.now(UTC))
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "doing": doing}
        self._written = True
        # A full disk must not stop a migration that may still fit.
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(who).encode(), 0)

    def _clear(self) -> None:
        if self._written:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)


def lock_path(database: Path) -> Path:
    """Return the lock file of ``database``; it lies beside the file itself, not beside a link."""
    # A link to a folder leads to the same file.
    real = follow(database) if database.is_symlink() else database
    return real.with_name(real.name + ".lock")


@contextmanager
def guard(
    database: Path,
    timeout: float,
    cancelled: Callable[[], bool] = lambda: False,
    *,
    shared: bool = False,
) -> Iterator[MigrationLock]:
    """Hold the lock of ``database``.

    Args:
        database: the database file; its folder must exist.
        timeout: seconds to wait at most.
        cancelled: called while waiting; the wait ends if it returns True.
        shared: share the lock with other processes that only inspect the database.

    Yields:
        The lock, with a ``problem`` if this place cannot lock.

    Raises:
        TokenStorageError: ``lock-timeout`` at the deadline, ``interrupted`` on
            cancellation, ``disk-full`` or ``io-error`` if no lock file can be created.
    """
    path = lock_path(database)
    try:
        hold = _wait_for(path, database, timeout, cancelled, shared=shared)
    except OSError as error:
        problem, detail = _problem(error, path, database)
        yield MigrationLock(problem, detail)
        return
    except KeyboardInterrupt as error:
        raise WaitInterrupted from error
    lock = MigrationLock(_descriptor=hold.descriptor)
    try:
        if os.fstat(hold.descriptor).st_size:
            # The announcement of a killed holder.
            _require_ours(hold.descriptor, path, database)
            lock._written = True
            lock._clear()
        yield lock
    finally:
        lock._clear()
        if hold.descriptor >= 0:
            # Closing alone would leave the lock to a child that was forked meanwhile.
            fcntl.flock(hold.descriptor, fcntl.LOCK_UN)
        hold.release()


def _wait_for(
    path: Path, database: Path, timeout: float, cancelled: Callable[[], bool], *, shared: bool
) -> Hold:
    begun = logged = time.monotonic()
    pause = _FIRST_PAUSE
    while (hold := acquire(path, database, shared=shared)) is None:
        with suppress(OSError):
            _require_ours_at(path, database)
        now = time.monotonic()
        if cancelled():
            raise TokenStorageError(
                f"The start was asked to stop while it waited for {database}; nothing was changed.",
                code="interrupted",
                remedy="Start again.",
            )
        if now >= begun + timeout:
            raise TokenStorageError(
                f"{database} was not free within {timeout:g} seconds: {holder(path)}.",
                code="lock-timeout",
                remedy="Let that process finish or stop it, then try again; "
                "TOKEN_STORAGE_LOCK_TIMEOUT sets the seconds to wait.",
            )
        if now >= logged + TELL_INTERVAL:
            logged = now
            logger.warning("Waiting for %s: %s", database, holder(path))
        forks.sleep(min(pause, begun + timeout - now))
        pause = min(2 * pause, POLL_INTERVAL)
    return hold


def require_own(database: Path) -> None:
    """Fail if another program's file lies where the lock should; a missing one is none.

    Raises:
        TokenStorageError: ``bad-path``, as :func:`guard`.
    """
    path = lock_path(database)
    try:
        _require_ours_at(path, database)
    except OSError as error:
        # What cannot be opened or locked is no reason to refuse what only reads.
        if error.errno in _NO_FILE:
            raise _no_lock(path, database, _IRREGULAR) from error


def _require_ours_at(path: Path, database: Path) -> None:
    """Do as :func:`_require_ours` with a file that another process has locked, perhaps its own."""
    descriptor = open_lock(path)
    try:
        _require_ours(descriptor, path, database)
    finally:
        os.close(descriptor)


def _require_ours(descriptor: int, path: Path, database: Path) -> None:
    """Fail if a lock file has content that no announcement has, as the file of another program."""
    if not is_announcement(os.pread(descriptor, LONGEST + 1, 0)):
        raise _no_lock(path, database, FOREIGN)


def is_announcement(content: bytes) -> bool:
    """Return whether the content of a lock file is an announcement, or what a crash left of it."""
    begun = content.startswith(_BEGINNING) or _BEGINNING.startswith(content.rstrip(b"\0"))
    return begun and len(content) <= LONGEST


def is_foreign(path: Path | str) -> bool:
    """Return whether a lock file is of another program; False if it cannot be opened."""
    with suppress(OSError):
        descriptor = open_lock(path)
        try:
            return not is_announcement(os.pread(descriptor, LONGEST + 1, 0))
        finally:
            os.close(descriptor)
    return False


def holder(path: Path) -> str:
    """Describe the holder of the lock file ``path``, as far as the file names it."""
    try:
        who = json.loads(path.read_bytes()[:LONGEST])
        return f"process {who['pid']} on {who['host']} has been {who['doing']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process is starting on it"


def _problem(error: OSError, path: Path, database: Path) -> tuple[str, str]:
    detail = f"{path.name}: {error.strerror or error}"
    if error.errno in _READ_ONLY:
        return "read-only", detail
    if error.errno in _NO_LOCKS:
        return "lock-unavailable", detail
    if error.errno in _NO_FILE:
        raise _no_lock(path, database, _IRREGULAR) from error
    raise named(error, path) or error from error


def _no_lock(path: Path, database: Path, what: str) -> TokenStorageError:
    return TokenStorageError(
        f"{path} should be the lock of {database}, and {what}.",
        code="bad-path",
        remedy="Give the database another name, or move that file away, then try again: "
        f"mv {for_shell(path)} {for_shell(path)}.moved",
    )
