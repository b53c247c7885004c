"""Describe the owner of a file, and what this user can do with it. Changes nothing."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def may(path: Path | str, how: int) -> bool:
    """Return whether this user has the access ``how`` (``os.R_OK`` and others) to ``path``."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def owner(path: Path) -> str:
    """Describe the owner and the mode of a file; raises an OSError if they cannot be read."""
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    return f"it belongs to user {user_name(status.st_uid)}, its mode is {mode:04o}"


def user_name(number: int) -> str:
    """Return the name of a user; the number if there is no name."""
    import pwd  # noqa: PLC0415 - a start at head does not need it

    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def unwritable(path: Path) -> str:
    """Return why the database at ``path`` cannot be written; empty if it can be.

    The reason names the file, the folder or the mount.
    """
    folder = path.parent
    try:
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return f"the file system of {folder} is mounted read-only"
    except OSError:
        # The folder is missing: creating it gives the error.
        return ""
    if not may(folder, os.W_OK | os.X_OK):
        return f"its folder {folder} cannot be written by this user"
    for suffix in ("", "-wal", "-journal", "-shm"):
        file = f"{path}{suffix}"
        if (mode := _closed_mode(file)) is not None:
            return f"the file {file} cannot be written by this user (mode {mode:04o})"
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
            mode = stat.S_IMODE(Path(file).stat().st_mode)
        except OSError:
            return None
    return mode
