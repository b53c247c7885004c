"""Turn errors of the operating system into the errors of this package."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError, for_shell

_CODES: Final = {
    errno.ENOSPC: "disk-full",
    errno.EDQUOT: "disk-full",
    errno.EROFS: "read-only",
    errno.EACCES: "read-only",
    errno.EPERM: "read-only",
    errno.ENAMETOOLONG: "bad-path",
    errno.ENOTDIR: "bad-path",
    errno.ELOOP: "bad-path",
    errno.EISDIR: "bad-path",
    errno.ENOENT: "bad-path",
}

#: The message and the remedy of each code.
TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "disk-full": (
        "The disk that holds {path} is full.",
        "Free space there, then try again; nothing was lost.",
    ),
    "read-only": (
        "{path} cannot be written ({detail}).",
        "Give this user write access to the file and to its folder, then try again.",
    ),
    "bad-path": (
        "{path} cannot be opened ({detail}).",
        "Check that the folder exists and that this user can enter it.",
    ),
    "io-error": (
        "The operating system reported an error on {path} ({detail}).",
        "Check the disk and the kernel's log, then try again; what was committed is kept.",
    ),
}


def named(error: BaseException, path: Path) -> TokenStorageError | None:
    """Return the named error for an OSError on ``path``; None for any other exception."""
    if isinstance(error, TokenStorageError):
        return error
    if not isinstance(error, OSError):
        return None
    code = _CODES.get(error.errno or 0, "io-error")
    return from_texts(TEXTS, code, path, error.strerror or type(error).__name__)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raise an OSError of the body as a named error about ``path``.

    Raises:
        TokenStorageError: ``disk-full``, ``read-only``, ``bad-path`` or ``io-error``.
    """
    try:
        yield
    except OSError as error:
        raise named(error, path) or error from error


def from_texts(
    texts: Mapping[str, tuple[str, str]], code: str, path: Path, detail: str
) -> TokenStorageError:
    """Build the error of a code from its message and remedy, for ``path``."""
    message, remedy = texts[code]
    typed = remedy.format(path=for_shell(path))
    return TokenStorageError(message.format(path=path, detail=detail), code=code, remedy=typed)
