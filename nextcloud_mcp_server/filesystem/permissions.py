"""Check the owner and the mode of a file, and what this user can do with it."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError, for_shell, printable

#: The bits of a mode for every user of the machine.
OTHERS: Final = 0o007

#: And that with which a group can change a file.
GROUP_WRITE: Final = stat.S_IWGRP

#: The most links that Linux follows.
_MOST_LINKS: Final = 40


def uses(bits: int) -> str:
    """Return what the three bits of a mode for one kind of user allow, as in ``can read``."""
    return {4: "read", 2: "change", 6: "read and change"}.get(bits & 6, "execute")


def may(path: Path | str, how: int) -> bool:
    """Return whether this user has the access ``how`` (``os.R_OK`` and others) to ``path``."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def owner(path: Path) -> str:
    """Describe the owner and the mode of a file; raises an OSError if they cannot be read."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    return f"it belongs to user {user_name(status.st_uid)}, its mode is {mode:04o}"


def closed_folder(path: Path) -> Path | None:
    """Return the first folder above ``path`` that this user may not enter; None without one."""
    # A link may lead into it: its target is known as far as this user can read.
    for place in (path, Path(os.path.realpath(path))):
        for folder in reversed(place.parents):
            if os.path.isdir(folder) and not may(folder, os.X_OK):  # noqa: PTH112 - raises nothing
                return folder
    return None


def closed_by(path: Path) -> str:
    """Describe the folder above ``path`` that this user may not enter; empty without one."""
    folder = closed_folder(path)
    if folder is None:
        return ""
    return f"its folder {folder} is closed to user {user_name(os.geteuid())}: {owner(folder)}"


def enter(path: Path) -> str:
    """Return the remedy for a folder above ``path`` that this user may not enter."""
    folder = closed_folder(path) or path.parent
    whose, me = user_name(folder.stat().st_uid), user_name(os.geteuid())
    return (
        f"Run this as user {whose}, or give the path of a file that user {me} can use; if the "
        f"folder is only for the database: chown -R {me} {for_shell(folder)}"
    )


def user_name(number: int) -> str:
    """Return the name of a user; the number if there is no name."""
    import pwd  # noqa: PLC0415 - a start at head does not need it

    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def group_name(number: int) -> str:
    """Return the name of a group; the number if there is no name."""
    import grp  # noqa: PLC0415 - as above

    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)


def require_trusted(
    path: Path | str,
    database: Path | None,
    trusted: Collection[int],
    *,
    forbidden: int = stat.S_IWOTH,
    own: int = 0,
) -> None:
    """Fail if another user can have put a file there, or changed it. A missing one is accepted.

    The owner must be this user, root or ``trusted``; if root asks, the owner of the database
    is accepted too, or the owner of its folder if there is no file.

    Args:
        path: the file, or a link, whose target and every link on the way are checked as well.
        database: the database that it belongs to; None if that is no file.
        trusted: users whose files are accepted with any mode.
        forbidden: the bits that the mode must not have, if the file is not this user's.
        own: those if it is; :func:`make_private` removes the others.

    Raises:
        TokenStorageError: ``untrusted``.
    """
    for file in links(path):
        try:
            status = os.lstat(file)
        except OSError:
            return
        require_trusted_status(path, status, database, trusted, forbidden=forbidden, own=own)


def require_trusted_status(
    path: Path | str,
    status: os.stat_result,
    database: Path | None,
    trusted: Collection[int],
    *,
    forbidden: int,
    own: int,
) -> None:
    """Check the owner and the mode in ``status`` as :func:`require_trusted` does.

    Raises:
        TokenStorageError: ``untrusted``.
    """
    us, owner_id = os.geteuid(), status.st_uid
    if owner_id in trusted:
        return
    if owner_id not in {0, us} and not (us == 0 and database and owner_id == _owner_id(database)):
        raise _belongs_to(path, owner_id)
    bits = status.st_mode & (own if owner_id == us else forbidden)
    if bits and stat.S_ISREG(status.st_mode):
        raise _open_to_others(path, status, bits)


def is_private(path: Path | str) -> bool:
    """Return whether a file is missing, or is a regular one that only this user can use."""
    try:
        status = os.lstat(path)
    except OSError:
        return True
    private = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return private and stat.S_ISREG(status.st_mode)


def links(path: Path | str) -> Iterator[Path | str]:
    """Yield a path, and each further one to which a link leads, at most as many as Linux does."""
    yield path
    for _ in range(_MOST_LINKS):
        try:
            target = os.readlink(path)  # noqa: PTH115 - a text is enough
        except OSError:
            return
        path = os.path.join(os.path.dirname(path), target)  # noqa: PTH118, PTH120
        yield path


def _owner_id(path: Path) -> int:
    """Return the owner of a file; of its folder if it is missing, as before a restore."""
    for place in (path, path.parent):
        with suppress(OSError):
            return place.stat().st_uid
    return 0


def _belongs_to(path: Path | str, owner_id: int) -> TokenStorageError:
    name, me = user_name(owner_id), user_name(os.geteuid())
    return TokenStorageError(
        f"{path} belongs to user {name}, and this is user {me}: it is not used, because "
        f"user {name} could read or change what is stored.",
        code="untrusted",
        remedy="Remove it if it is not yours; if it is, as root: "
        f"chown {me} {for_shell(path)} - or set TOKEN_STORAGE_TRUSTED_OWNERS={name}",
    )


def _open_to_others(path: Path | str, status: os.stat_result, bits: int) -> TokenStorageError:
    how = "written" if bits & stat.S_IWOTH else "read"
    who = f"be {how} by every user of this machine"
    if not bits & OTHERS:
        who = f"be written by the users of group {group_name(status.st_gid)}"
    if status.st_uid == os.geteuid():
        change = "chmod 600"
    else:
        # A file of root that were 0600 could not be read here.
        change = f"As root: chmod {'g-w,o-rwx' if bits & stat.S_IROTH else 'go-w'}"
    return TokenStorageError(
        f"{path} can {who} (mode {status.st_mode & 0o7777:04o}), so it is not used.",
        code="untrusted",
        remedy=f"{change} {for_shell(path)} - or, if the file system keeps no modes, set "
        f"TOKEN_STORAGE_TRUSTED_OWNERS={user_name(status.st_uid)}",
    )


def make_private(path: Path | str, trusted: Collection[int] = ()) -> tuple[int, int] | None:
    """Take a file of this user away from all others; return its old and its new mode.

    A group may keep reading: somebody allowed it on purpose. If it may change the file, each of
    its users could replace it, so it may not any more, unless this user is one of ``trusted``.
    A read-only file stays one. None if there was nothing to do.
    """
    try:
        status = os.lstat(path)
        mode, us = stat.S_IMODE(status.st_mode), os.geteuid()
        bits = OTHERS if us in trusted else OTHERS | GROUP_WRITE
        if not (stat.S_ISREG(status.st_mode) and mode & bits and status.st_uid == us):
            return None
        wanted = mode & (0o600 if mode & OTHERS else 0o640)
        os.chmod(path, wanted)  # noqa: PTH101 - may be text
        # Some file systems keep no modes.
        return None if os.lstat(path).st_mode & bits else (mode, wanted)
    except OSError:
        # It is gone, or on a disk that cannot be written.
        return None


def close_to_others(path: Path | str, trusted: Collection[int] = ()) -> None:
    """Do as :func:`make_private`, and log what was changed."""
    if modes := make_private(path, trusted):
        # Seldom needed, and an inspection imports this module.
        import logging  # noqa: PLC0415

        old, new = modes
        for_all = bool(old & OTHERS)
        logging.getLogger(__name__).warning(
            "%s could %s %s (mode %04o): its mode is %04o now",
            "Every user of this machine" if for_all else "A group",
            uses(old if for_all else old >> 3),
            printable(str(path)),
            old,
            new,
        )


def can_be_planted(path: Path) -> bool:
    """Return whether other users can put files in the folder of ``path``."""
    try:
        return bool(path.parent.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def unwritable(path: Path) -> str:
    """Return why the database at ``path`` cannot be written; empty if it can be.

    The reason names the file, the folder or the mount.
    """
    if reason := closed_to_new_files(path.parent):
        return reason
    for suffix in ("", "-wal", "-journal", "-shm"):
        file = f"{path}{suffix}"
        if (mode := _closed_mode(file)) is not None:
            return f"the file {file} cannot be written by this user (mode {mode:04o})"
    return ""


def closed_to_new_files(folder: Path) -> str:
    """Return why no file can be created in an existing ``folder``; empty if one can be."""
    try:
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return f"the file system of {folder} is mounted read-only"
    except OSError:
        # The folder is missing: creating it gives the error.
        return ""
    if not may(folder, os.W_OK | os.X_OK):
        return f"its folder {folder} cannot be written by this user"
    return ""


def unmakeable(folder: Path) -> str:
    """Return why a missing ``folder`` cannot be created; empty if it exists, or can be."""
    above = existing_folder(folder)
    if above == folder or may(above, os.W_OK | os.X_OK):
        return ""
    return f"its folder {folder} is not there, and this user cannot make it in {above}"


def existing_folder(folder: Path) -> Path:
    """Return the folder, or the nearest existing one above it."""
    while not os.path.isdir(folder) and folder != folder.parent:  # noqa: PTH112 - raises nothing
        folder = folder.parent
    return folder


def closed_to_us(file: Path) -> str:
    """Describe the owner of a read-only file in a writable folder; empty for other files."""
    if _closed_mode(str(file)) is None or not may(file.parent, os.W_OK | os.X_OK):
        return ""
    return owner(file)


def _closed_mode(file: str) -> int | None:
    """Return the mode of an existing file that cannot be written; None for other files."""
    mode = None
    # SQLite creates and removes a -wal and a -shm at any moment, and a file that was removed
    # between the two calls looks like a read-only one. So only three equal results count.
    for _ in range(3):
        if may(file, os.W_OK):
            return None
        try:
            mode = stat.S_IMODE(os.stat(file).st_mode)  # noqa: PTH116 - a text is enough
        except OSError:
            return None
    return mode
