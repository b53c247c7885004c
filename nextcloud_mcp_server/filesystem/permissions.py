"""Whose a file is, and what this user may do with it, in words. Changes nothing."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def may(path: Path | str, how: int) -> bool:
    """Whether this user may do ``how`` (``os.R_OK`` and its like) with what lies at ``path``."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def owner(path: Path) -> str:
    """Whose a file is, and what it lets others do.

    Raises:
        OSError: nobody can tell.
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    return f"it belongs to user {user_name(status.st_uid)}, its mode is {mode:04o}"


def user_name(number: int) -> str:
    """The name of a user; the number of one without."""
    import pwd  # noqa: PLC0415 - a start at head does without it

    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return str(number)


def unwritable(path: Path) -> str:
    """Why the database at ``path`` cannot be written; empty where it can be. Changes nothing.

    The reason names the file, the folder or the mount that is in the way.
    """
    folder = path.parent
    try:
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return f"the file system of {folder} is mounted read-only"
    except OSError:
        # A folder that is not there yet: whoever makes it meets what is wrong.
        return ""
    if not may(folder, os.W_OK | os.X_OK):
        return f"its folder {folder} cannot be written by this user"
    for suffix in ("", "-wal", "-journal", "-shm"):
        file = f"{path}{suffix}"
        if (mode := _closed_mode(file)) is not None:
            return f"the file {file} cannot be written by this user (mode {mode:04o})"
    return ""


def unmakeable(folder: Path) -> str:
    """Why ``folder`` cannot be made where it is not there; empty where it is, or can be."""
    above = there(folder)
    if above == folder or may(above, os.W_OK | os.X_OK):
        return ""
    return f"its folder {folder} is not there, and this user cannot make it in {above}"


def there(folder: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    while not os.path.isdir(folder) and folder != folder.parent:  # noqa: PTH112 - raises nothing
        folder = folder.parent
    return folder


def closed_to_us(file: Path) -> str:
    """Whose a file is that may not be written, in a folder that may be; empty for every other."""
    if _closed_mode(str(file)) is None or not may(file.parent, os.W_OK | os.X_OK):
        return ""
    return owner(file)


def _closed_mode(file: str) -> int | None:
    """The mode of a file that is there and may not be written; None for every other."""
    mode = None
    # SQLite makes and removes a -wal and a -shm at any moment: what is gone between two
    # questions answers like what is forbidden, so only the same answer thrice counts.
    for _ in range(3):
        if may(file, os.W_OK):
            return None
        try:
            mode = stat.S_IMODE(Path(file).stat().st_mode)
        except OSError:
            return None
    return mode
