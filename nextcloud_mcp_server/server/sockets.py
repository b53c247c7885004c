"""Bind the sockets of the server, before a migration begins.

``socket.create_server`` also listens: a client that connects before anything accepts would wait
instead of being refused.
"""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import Any, Final

from nextcloud_mcp_server.errors import TokenStorageError

#: The errors of binding an address that belongs to the name and not to this machine.
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_HIGHEST: Final = 65535


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind every address of ``host``, without listening yet.

    The port is the same for every address, also the free one that 0 stands for.

    Raises:
        TokenStorageError: ``cannot-listen``; nothing stays bound.
    """
    bound: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as undo:
        try:
            if not 0 <= port <= _HIGHEST:
                raise OverflowError("there is no such port")
            addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
            for family, _, _, _, address in dict.fromkeys(addresses):
                try:
                    one = _bound(family, (address[0], port, *address[2:]))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    missing = error
                    continue
                bound.append(undo.enter_context(one))
                port = one.getsockname()[1]
            if missing is not None and not bound:
                raise missing
        except (OSError, UnicodeError, OverflowError) as error:
            raise cannot_listen(host, port, error) from error
        undo.pop_all()
    return bound


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    with ExitStack() as undo:
        one = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        # Otherwise a restart waits for the last connections of the server before.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Otherwise it also takes the IPv4 address of the same name.
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        undo.pop_all()
    return one


def shown(host: str, port: int) -> str:
    """Return host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(host: str, port: int, error: Exception) -> TokenStorageError:
    """Return the error for an address that is taken, not allowed or not of this machine."""
    number = getattr(error, "errno", None)
    detail = getattr(error, "strerror", None) or str(error)
    if number == errno.EADDRINUSE:
        remedy = "Stop that server, or choose another port with --port (0: a free one)."
    elif number == errno.EACCES or isinstance(error, OverflowError):
        remedy = "Choose a port from 1024 to 65535 with --port (0: a free one)."
    else:
        remedy = "Give a name or an address of this machine with --host, for example 127.0.0.1."
    return TokenStorageError(
        f"The server cannot listen on {shown(host, port)} ({detail}).",
        code="cannot-listen",
        remedy=remedy,
    )
