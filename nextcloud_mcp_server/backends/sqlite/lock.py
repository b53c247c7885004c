"""The file lock that lets exactly one process at a time look at and migrate a database.

It lies beside the database (``tokens.db.lock``, 0600) and is never unlinked: two waiters
of an unlinked file would each get a lock of their own. ``flock`` dies with its process,
so there is no expiry time and nothing to clean up. It is taken by hand, as ``in_use.py`` takes
its own: the usual library costs a start at head as much again as its look at the database.
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

from nextcloud_mcp_server.backends.sqlite.errors import named
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem.files import follow
from nextcloud_mcp_server.filesystem.flock import Hold, make_lock

logger = logging.getLogger(__name__)

#: Seconds between two attempts, at most: with the usual 0.05 the slowest of 16 starts waits
#: for more than half a second, with this for a fifth of that.
POLL_INTERVAL: Final = 0.005

#: Seconds before the second attempt; doubled each time. A start at head is done by then.
_FIRST_PAUSE: Final = 0.0005

#: Seconds between two words to whoever waits.
TELL_INTERVAL: Final = 5.0

_READ_ONLY: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
#: What opening a lock ends with where something else lies there; 0 is that of in_use.py.
_NO_FILE: Final = frozenset({0, errno.EISDIR, errno.ELOOP, errno.ENXIO})
_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL})


@dataclass
class Held:
    """The lock while it is held.

    Attributes:
        problem: why there is no lock (``read-only`` or ``lock-unavailable``); empty when
            it is held. Without it a database may be looked at, and not be changed.
        detail: what the operating system said.
    """

    problem: str = ""
    detail: str = ""
    _descriptor: int = -1
    _said: bool = field(default=False, repr=False)

    def announce(self, doing: str) -> None:
        """Write into the lock file who holds it and what for, for those who wait."""
        if self._descriptor < 0:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "doing": doing}
        self._said = True
        # A full disk must not stop what may still fit into the database.
        with suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(who).encode(), 0)

    def _retract(self) -> None:
        if self._said:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)


def lock_path(database: Path) -> Path:
    """Where the lock of ``database`` lies: beside the file itself, whatever link named it."""
    real = follow(database)
    return real.with_name(real.name + ".lock")


@contextmanager
def guard(
    database: Path,
    timeout: float,
    cancelled: Callable[[], bool] = lambda: False,
    *,
    shared: bool = False,
) -> Iterator[Held]:
    """Hold the lock of ``database``.

    Args:
        database: the database file; its folder must be there.
        timeout: seconds to wait at most.
        cancelled: asked while waiting; when it says True, the wait ends.
        shared: hold it with others who only look; nobody who changes something is among them.

    Yields:
        The held lock, or one with a ``problem`` where this place cannot lock.

    Raises:
        TokenStorageError: ``lock-timeout`` at the deadline, ``interrupted`` on
            cancellation, ``disk-full`` or ``io-error`` where no lock file can be made.
    """
    path = lock_path(database)
    try:
        lock = _acquire(path, database, timeout, cancelled, shared=shared)
    except OSError as error:
        problem, detail = _problem(error, path, database)
        yield Held(problem, detail)
        return
    held = Held(_descriptor=lock.descriptor)
    # A killed holder could not take back what it had said of itself.
    if os.fstat(lock.descriptor).st_size:
        held._said = True
        held._retract()
    try:
        yield held
    finally:
        held._retract()
        if lock.descriptor >= 0:
            # Closing alone would leave it to a child that was forked meanwhile.
            fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
        lock.release()


def _acquire(
    path: Path, database: Path, timeout: float, cancelled: Callable[[], bool], *, shared: bool
) -> Hold:
    begun = told = time.monotonic()
    pause = _FIRST_PAUSE
    while (lock := _try(path, database, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)) is None:
        now = time.monotonic()
        if cancelled():
            raise _interrupted(database)
        if now >= begun + timeout:
            raise _too_long(path, database, timeout)
        if now >= told + TELL_INTERVAL:
            told = now
            logger.warning("Waiting for %s: %s", database, holder(path))
        time.sleep(min(pause, begun + timeout - now))
        pause = min(2 * pause, POLL_INTERVAL)
    return lock


def _try(path: Path, database: Path, how: int) -> Hold | None:
    """The lock; None where somebody else holds it."""
    descriptor = make_lock(path, database)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return Hold(descriptor)
    except (BlockingIOError, PermissionError, FileNotFoundError):
        # Held by another (some file systems say "not permitted"), or unlinked since it was
        # opened: that would be a lock that nobody else can see.
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def holder(path: Path) -> str:
    """Who holds the lock at ``path``, in words, as far as the file tells."""
    try:
        who = json.loads(path.read_bytes()[:4096])
        return f"process {who['pid']} on {who['host']} has been {who['doing']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process is starting on it"


def _problem(error: Exception, path: Path, database: Path) -> tuple[str, str]:
    number = getattr(error, "errno", None)
    detail = getattr(error, "strerror", None) or str(error) or type(error).__name__
    detail = f"{path.name}: {detail}"
    if number in _READ_ONLY:
        return "read-only", detail
    if number in _NO_LOCKS:
        return "lock-unavailable", detail
    if number in _NO_FILE:
        raise _in_the_way(path, database) from error
    raise named(error, path) or error from error


def _in_the_way(path: Path, database: Path) -> TokenStorageError:
    return TokenStorageError(
        f"{path} should be the lock of {database}, and is no regular file.",
        code="bad-path",
        remedy=f"Move it away, then try again: mv {for_shell(path)} {for_shell(path)}.moved",
    )


def _too_long(path: Path, database: Path, timeout: float) -> TokenStorageError:
    return TokenStorageError(
        f"{database} was not free within {timeout:g} seconds: {holder(path)}.",
        code="lock-timeout",
        remedy="Let that process finish or stop it, then try again; "
        "TOKEN_STORAGE_LOCK_TIMEOUT sets the seconds to wait.",
    )


def _interrupted(database: Path) -> TokenStorageError:
    return TokenStorageError(
        f"The start was asked to stop while it waited for {database}; nothing was changed.",
        code="interrupted",
        remedy="Start again.",
    )
