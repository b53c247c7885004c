"""Turn errors of the operating system into the errors of this package."""

from __future__ import annotations

import errno
import os
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

#: The limits of a process: what was reached, and what to do.
_TOO_MANY: Final = ("too many files are open", "Raise the limit of open files (ulimit -n).")
_LIMITS: Final = {
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.EFBIG: ("a file may not become larger", "Raise the limit of the file size (ulimit -f)."),
}


def reached_limit(files: int = 1) -> tuple[str, str] | None:
    """Return the limit that keeps this process from opening ``files``; None if none does."""
    opened: list[int] = []
    try:
        for _ in range(files):
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))  # noqa: PERF401
    except OSError as error:
        return _LIMITS.get(error.errno or 0)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return None


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


def named(error: BaseException, path: Path | str) -> TokenStorageError | None:
    """Return the named error for an OSError on ``path``; None for any other exception."""
    if isinstance(error, TokenStorageError):
        return error
    if not isinstance(error, OSError):
        return None
    if limit := _LIMITS.get(error.errno or 0):
        return limited(path, limit)
    code = _CODES.get(error.errno or 0, "io-error")
    return from_texts(TEXTS, code, path, error.strerror or type(error).__name__)


def limited(path: Path | str, limit: tuple[str, str]) -> TokenStorageError:
    """Return the error for a limit of the process that was reached on ``path``."""
    what, remedy = limit
    return TokenStorageError(f"{path}: {what}.", code="io-error", remedy=remedy)


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
    texts: Mapping[str, tuple[str, str]], code: str, path: Path | str, detail: str
) -> TokenStorageError:
    """Build the error of a code from its message and remedy, for ``path``."""
    message, remedy = texts[code]
    typed = remedy.format(path=for_shell(path))
    return TokenStorageError(message.format(path=path, detail=detail), code=code, remedy=typed)
