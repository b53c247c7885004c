"""The in-use marker: a shared lock that every open store holds, so that a command sees it.

The lock file lies beside the database (``tokens.db.inuse``, mode 0600) and is never deleted. Each
holder writes its process and host into it, because the kernel lists no process of another PID
namespace. The lines of those that ended stay until nobody holds the lock.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.lock import LONGEST, is_announcement
from nextcloud_mcp_server.errors import TokenStorageError, for_shell, moment
from nextcloud_mcp_server.filesystem.files import follow
from nextcloud_mcp_server.filesystem.flock import Hold, acquire, open_lock, try_lock

logger = logging.getLogger(__name__)

#: Seconds to wait for a command that is testing the lock.
_TIMEOUT: Final = 1.0

#: The longest pause between two attempts, in seconds, and the first, which is doubled each time.
_POLL: Final = 0.005
_FIRST_PAUSE: Final = 0.0002

_UNSEEN: Final = (
    "its process is not visible here: it may be in another container or on another host"
)

#: The number of holders that the file names: with the longest host names they fit in LONGEST.
_NAMED: Final = 16

#: The number of holders that a message names.
_TOLD: Final = 3

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
    deadline, pause = time.monotonic() + _TIMEOUT, _FIRST_PAUSE
    try:
        while (share := _share(path, database)) is None:
            if time.monotonic() > deadline:
                raise BlockingIOError(0, "another process holds it")
            time.sleep(pause)
            pause = min(2 * pause, _POLL)
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s): a command that replaces the database will not know that "
            "this server is running",
            path,
            error.strerror,
        )
        return None
    # A full disk must not stop a start.
    with suppress(OSError):
        if not _sign(share.descriptor):
            logger.warning(
                "%s is the file of another program, so it stays as it is, and a command that "
                "replaces the database may not be able to name this server: stop the server and "
                "move that file away: mv %s %s.moved",
                path,
                for_shell(path),
                for_shell(path),
            )
    return share


def _share(path: Path, database: Path) -> Hold | None:
    """Take a share of the lock; None if somebody else holds it alone for the moment."""
    if (alone := acquire(path, database, shared=False)) is None:
        return acquire(path, database, shared=True)
    with suppress(OSError):
        content = os.pread(alone.descriptor, LONGEST + 1, 0)
        if is_announcement(content):
            # Those that it names have ended. Cutting the file off takes a tenth of a start.
            os.pwrite(alone.descriptor, bytes(len(content)), 0)
    if try_lock(alone.descriptor, shared=True):
        return alone
    alone.release()
    return None


def _sign(descriptor: int) -> bool:
    """Add this process to the holders that the file names; False if it is another program's."""
    content = os.pread(descriptor, LONGEST + 1, 0)
    if not is_announcement(content):
        return False
    who = {"pid": os.getpid(), "host": socket.gethostname()}
    since = moment(datetime.now(UTC))
    others = [line for line in _signatures(content) if not who.items() <= line.items()]
    lines = [*others[1 - _NAMED :], who | {"since": since}]
    text = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    os.pwrite(descriptor, text.ljust(len(content)), 0)
    return True


def _signatures(content: bytes) -> list[dict[str, object]]:
    """Return the holders that the file names, the newest last; what a crash cut off is left out."""
    found = []
    for line in content.splitlines():
        if not line.startswith(b"{"):
            continue
        with suppress(ValueError, RecursionError):
            who = json.loads(line)
            if isinstance(who, dict) and {"pid", "host", "since"} <= who.keys():
                found.append(who)
    return found


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


def describe(database: Path) -> str:
    """Describe who has a store open on ``database``, as far as it can be known."""
    if pids := holders(database):
        return f"{'process' if len(pids) == 1 else 'processes'} {', '.join(map(str, pids))}"
    # The kernel lists no process of another PID namespace, and none of another host.
    names = []
    with suppress(OSError):
        descriptor = open_lock(inuse_path(database))
        try:
            names = _signatures(os.pread(descriptor, LONGEST, 0))
        finally:
            os.close(descriptor)
    told = [f"process {who['pid']} on {who['host']} at {who['since']}" for who in names[-_TOLD:]]
    return f"{_UNSEEN}; last opened by {', '.join(reversed(told))}" if told else _UNSEEN


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
    who = describe(database)
    raise TokenStorageError(
        f"A server is running on {database} ({who}); nothing was changed.",
        code="in-use",
        remedy="Stop it, then run the command again; or give --while-running, and restart it "
        "afterwards.",
    )
