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
