"""Whether a server is running on a database: a shared lock that every open store holds.

It lies beside the database (``tokens.db.inuse``, 0600) and is never unlinked. The kernel
frees it with the process, however that ends, so there is nothing to clean up.

It is ``flock(2)`` and not filelock's ``ReadWriteLock``, which is a transaction of SQLite in
a database of its own: those are POSIX locks, which belong to the process, so that closing
any descriptor of the file drops them. A ``flock`` belongs to the open file: two stores of
one process hold one each. The trap on this side is ``fork``: the child shares the open file,
and would hold the lock for as long as it lives. It closes its descriptor, and may not unlock,
which would unlock the parent's too. (Over NFS Linux makes POSIX locks of both.)
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.files import follow
from nextcloud_mcp_server.filesystem.flock import Hold, make_lock, open_lock

logger = logging.getLogger(__name__)

#: Seconds to wait for a command that asks in this moment who is there.
_PATIENCE: Final = 1.0

_POLL: Final = 0.005

_KNOWN_LOCKS: Final = Path("/proc/locks")


def inuse_path(database: Path) -> Path:
    """Where the lock of ``database`` lies: beside the file itself, whatever link named it."""
    real = follow(database)
    return real.with_name(real.name + ".inuse")


def hold(database: Path) -> Hold | None:
    """Say that a store is open on ``database``, until the answer is released.

    To be called under the lock of migrations, so that whoever looks under that lock looks at
    all of them. Where the lock cannot be made, the store does without: None, and a warning.
    """
    path = inuse_path(database)
    try:
        descriptor = make_lock(path, database)
    except OSError as error:
        _tell(path, error)
        return None
    try:
        _retry(lambda: fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        _tell(path, error)
        return None
    return Hold(descriptor)


def _retry(lock: Callable[[], None]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return lock()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL)


def _tell(path: Path, error: OSError) -> None:
    logger.warning(
        "%s cannot be locked (%s): a command that replaces the database will not know that "
        "this server is running",
        path,
        error.strerror,
    )


def in_use(database: Path) -> bool:
    """As :func:`is_held`; False where nobody can tell."""
    try:
        return is_held(database)
    except OSError:
        return False


def is_held(database: Path) -> bool:
    """Whether a store is open on ``database``. Changes nothing.

    Raises:
        OSError: nobody can tell, because the lock is closed to this user or cannot be asked.
    """
    try:
        descriptor = open_lock(inuse_path(database))
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def holders(database: Path) -> tuple[int, ...]:
    """The processes that have a store open on ``database``, as far as the kernel tells."""
    try:
        status = inuse_path(database).stat()
        lines = _KNOWN_LOCKS.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return ()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    place = f"{device}:{status.st_ino}"
    # As in proc(5): "1: FLOCK  ADVISORY  READ 4711 08:01:1234 0 EOF"; 0 is of another container.
    found = [line.split() for line in lines if f" {place} " in line]
    return tuple(sorted({int(f[4]) for f in found if f[1] == "FLOCK" and int(f[4]) > 0}))


def require_idle(database: Path, *, while_running: bool = False) -> None:
    """Insist that no server is running on ``database``. Only under the lock of migrations.

    Args:
        database: the database file.
        while_running: whether somebody has said that a running server is no reason.

    Raises:
        TokenStorageError: ``in-use``.
    """
    if while_running:
        return
    try:
        if not is_held(database):
            return
    except OSError as error:
        raise _nobody_can_tell(database, error) from error
    pids = holders(database)
    processes = "process" if len(pids) == 1 else "processes"
    who = f" ({processes} {', '.join(map(str, pids))})" if pids else ""
    raise TokenStorageError(
        f"A server is running on {database}{who}; nothing was changed.",
        code="in-use",
        remedy="Stop it, then run the command again; or give --while-running, and restart it "
        "afterwards.",
    )


def _nobody_can_tell(database: Path, error: OSError) -> TokenStorageError:
    path = inuse_path(database)
    return TokenStorageError(
        f"Nobody can tell whether a server is running on {database}: {path} cannot be opened "
        f"({error.strerror}); nothing was changed.",
        code="in-use",
        remedy="Run the command as the user that the server runs as; or stop every server and give "
        "--while-running.",
    )
