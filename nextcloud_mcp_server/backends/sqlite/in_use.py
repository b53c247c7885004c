"""The in-use marker: a shared lock that every open store holds, so that a command sees it.

The lock file lies beside the database (``tokens.db.inuse``, mode 0600) and is never deleted.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.files import follow
from nextcloud_mcp_server.filesystem.flock import Hold, acquire, open_lock, try_lock

logger = logging.getLogger(__name__)

#: Seconds to wait for a command that is testing the lock.
_TIMEOUT: Final = 1.0

_POLL: Final = 0.005

_UNSEEN: Final = (
    "its process is not visible here: it may be in another container or on another host"
)

_KNOWN_LOCKS: Final = Path("/proc/locks")


def inuse_path(database: Path) -> Path:
    """Return the lock file of ``database``; it lies beside the file itself, not beside a link."""
    # A link to a folder leads to the same file.
    real = follow(database) if database.is_symlink() else database
    return real.with_name(real.name + ".inuse")


def hold(database: Path) -> Hold | None:
    """Mark ``database`` as in use until the result is released.

    Call it under the migration lock: then a command that holds that lock sees every store. If
    the lock cannot be taken, the store works without it: None, and a warning.
    """
    path = inuse_path(database)
    deadline = time.monotonic() + _TIMEOUT
    try:
        while (share := acquire(path, database, shared=True)) is None:
            if time.monotonic() > deadline:
                raise BlockingIOError(0, "another process holds it")
            time.sleep(_POLL)
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s): a command that replaces the database will not know that "
            "this server is running",
            path,
            error.strerror,
        )
        return None
    return share


def in_use(database: Path) -> bool:
    """Return :func:`is_held`; False if that cannot be determined."""
    try:
        return is_held(database)
    except OSError:
        return False


def is_held(database: Path) -> bool:
    """Return whether a store is open on ``database``. Changes nothing.

    Raises:
        OSError: it cannot be determined: this user cannot open the lock file, or it is none.
    """
    try:
        descriptor = open_lock(inuse_path(database))
    except FileNotFoundError:
        return False
    try:
        return not try_lock(descriptor, shared=False)
    finally:
        os.close(descriptor)


def holders(database: Path) -> tuple[int, ...]:
    """Return the processes that have a store open on ``database``, if the kernel lists them."""
    try:
        status = inuse_path(database).stat()
        lines = _KNOWN_LOCKS.read_text("ascii").splitlines()
    except (OSError, ValueError):
        return ()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    place = f"{device}:{status.st_ino}"
    # As in proc(5): "1: FLOCK  ADVISORY  READ 4711 08:01:1234 0 EOF"; 0: in another container.
    found = [line.split() for line in lines if f" {place} " in line]
    return tuple(sorted({int(f[4]) for f in found if f[1] == "FLOCK" and int(f[4]) > 0}))


def require_idle(database: Path, *, while_running: bool = False) -> None:
    """Fail if a server is using ``database``, unless ``while_running``. Only under the lock.

    Raises:
        TokenStorageError: ``in-use``.
    """
    if while_running:
        return
    try:
        if not is_held(database):
            return
    except OSError as error:
        raise TokenStorageError(
            f"Cannot determine whether a server is using {database}: {inuse_path(database)} cannot "
            f"be opened ({error.strerror}); nothing was changed.",
            code="in-use",
            remedy="Run the command as the user that the server runs as; or stop every server and "
            "give --while-running.",
        ) from error
    pids = holders(database)
    processes = "process" if len(pids) == 1 else "processes"
    # The kernel lists no process of another PID namespace, and none of another host.
    who = f"{processes} {', '.join(map(str, pids))}" if pids else _UNSEEN
    raise TokenStorageError(
        f"A server is running on {database} ({who}); nothing was changed.",
        code="in-use",
        remedy="Stop it, then run the command again; or give --while-running, and restart it "
        "afterwards.",
    )
