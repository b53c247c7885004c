"""Temporary folders outside of the database's own; an error names the folder, not the database."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError

_EXAMPLE: Final = "TMPDIR=/var/lib/tokens - or mount one: docker run --tmpfs /tmp"

#: The errors of a folder that cannot be written.
_UNWRITABLE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT})


def temporary_place(doing: str) -> Path:
    """Return the folder for temporary files, which can be written.

    ``doing`` is the purpose, for the message: "to rehearse on a copy".

    Raises:
        TokenStorageError: ``read-only`` if there is none.
    """
    # Rarely needed, and slow to import.
    import tempfile  # noqa: PLC0415

    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise _missing(doing) from error


@contextmanager
def temporary_folder(doing: str) -> Iterator[Path]:
    """Make a folder that only this user can enter, and delete it at the end.

    Raises:
        TokenStorageError: ``read-only`` if there is no place for it.
    """
    import tempfile  # noqa: PLC0415

    place = temporary_place(doing)
    try:
        folder = tempfile.TemporaryDirectory(
            prefix="tokens-", dir=place, ignore_cleanup_errors=True
        )
    except OSError as error:
        if is_full(error):
            raise full(place, doing) from error
        if error.errno in _UNWRITABLE:
            raise _missing(doing) from error
        raise
    with folder:
        yield Path(folder.name)


def is_full(error: OSError) -> bool:
    """Return whether a disk is full; nothing that is only read can be the one."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def full(place: Path, doing: str) -> TokenStorageError:
    """Return the error for a full folder of temporary files."""
    return TokenStorageError(
        f"The folder for temporary files, {place}, is full; it is needed {doing}.",
        code="disk-full",
        remedy=f"Free space there, or set TMPDIR to a folder with more: {_EXAMPLE}",
    )


def _missing(doing: str) -> TokenStorageError:
    return TokenStorageError(
        "There is no folder for temporary files that can be written (TMPDIR, /tmp, /var/tmp), and "
        f"one is needed {doing}.",
        code="read-only",
        remedy=f"Set TMPDIR to a folder that this user can write to: {_EXAMPLE}",
    )
