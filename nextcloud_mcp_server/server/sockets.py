"""The sockets that a server listens on, and what is said where it cannot."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import ExitStack
from typing import Any, Final

from nextcloud_mcp_server.errors import TokenStorageError

#: What binding says of an address that a name has and this machine has not.
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_HIGHEST: Final = 65535


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address of ``host``, without listening yet.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one, the same for every address.

    Raises:
        TokenStorageError: ``cannot-listen``; nothing is left bound.
    """
    if not 0 <= port <= _HIGHEST:
        raise cannot_listen(host, port, OverflowError("there is no such port"))
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise cannot_listen(host, port, error) from error
    bound: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as undo:
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                one = _bound(family, (address[0], _port(bound) or port, *address[2:]))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise cannot_listen(host, port, error) from error
                missing = error
            else:
                undo.callback(one.close)
                bound.append(one)
        if missing is not None and not bound:
            raise cannot_listen(host, port, missing) from missing
        undo.pop_all()
    return bound


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    with ExitStack() as undo:
        one = socket.socket(family, socket.SOCK_STREAM)
        undo.callback(one.close)
        if sys.platform != "win32":
            # Else a restart has to wait for the last connections of the server before.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Else it takes the IPv4 address of the same name along.
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        undo.pop_all()
    return one


def _port(bound: list[socket.socket]) -> int:
    return int(bound[0].getsockname()[1]) if bound else 0


def shown(host: str, port: int) -> str:
    """Host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(host: str, port: int, error: Exception) -> TokenStorageError:
    """The error for an address that is taken, not allowed, or not of this machine."""
    number = getattr(error, "errno", None)
    detail = getattr(error, "strerror", None) or str(error)
    if number in {errno.EADDRINUSE, errno.EACCES} or isinstance(error, OverflowError):
        remedy = "Stop what listens there, or choose another port with --port (0: a free one)."
        if number != errno.EADDRINUSE:
            remedy = "Choose a port from 1024 to 65535 with --port (0: a free one)."
    else:
        remedy = "Give a name or an address of this machine with --host, for example 127.0.0.1."
    return TokenStorageError(
        f"The server cannot listen on {shown(host, port)} ({detail}).",
        code="cannot-listen",
        remedy=remedy,
    )
