"""A proxy between a client and a server that cuts connections at a chosen moment."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Proxy:
    """Passes bytes between a port of this machine and the socket of a server.

    Attributes:
        port: where clients connect.
        on_request: called with what a client sends: "pass", "drop" (cut before the server sees
            it), "deliver" (cut after the server has it, before the client has the answer) or
            "hold" (never passed on, and nothing is closed).
        delay: seconds for which everything that a client sends is held back.
        refuses: whether new connections are closed at once.
        refusal: what they are sent before that.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.on_request: Callable[[bytes], str] = lambda _: "pass"
        self.refuses = False
        self.refusal = b""
        self.delay = 0.0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            for one in list(self._open):
                self._close(one)

    def close(self) -> None:
        """Stop."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _close(self, one: socket.socket) -> None:
        self._open.discard(one)
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refuses:
                    with suppress(OSError):
                        # Not before the request: unread bytes would reset the connection.
                        client.settimeout(5)
                        if self.refusal and client.recv(65_536):
                            client.sendall(self.refusal)
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(str(self._target))
                except OSError:
                    client.close()
                    server.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                for one in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=one, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                what = self.on_request(data) if is_request else "pass"
                if what == "drop":
                    break
                if what == "hold":
                    continue
                if is_request and self.delay:
                    time.sleep(self.delay)
                if what == "deliver":
                    # The answer is not passed on, although the server gives one.
                    with self._lock:
                        self._close(source)
                target.sendall(data)
                if what == "deliver":
                    target.settimeout(5)
                    with suppress(OSError):
                        target.recv(65_536)
                    break
        with self._lock:
            self._close(source)
            self._close(target)
        source.close()


@contextmanager
def proxied(target: Path) -> Iterator[Proxy]:
    """Run a proxy until the block ends."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
