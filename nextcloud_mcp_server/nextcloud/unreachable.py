"""Why a connection failed, in words that an operator can act on."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Final

#: The errors of the system that an operator can do something about.
_OF_SYSTEM: Final = {
    errno.ECONNREFUSED: "the connection was refused",
    errno.ECONNRESET: "the connection was closed",
    errno.ENETUNREACH: "there is no route to it",
    errno.EHOSTUNREACH: "there is no route to it",
    errno.EMFILE: "too many files are open",
}


def why(error: BaseException) -> str:
    """Return the reason of a failed request: a few words, or else the name of the error's class.

    Nothing of what was sent or answered is in it.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return "it does not speak https there"
        if isinstance(cause, socket.gaierror):
            return "the name of the host is unknown"
        if isinstance(cause, OSError) and cause.errno in _OF_SYSTEM:
            return _OF_SYSTEM[cause.errno]
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and the members of a group among them."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
