"""Answers while the server starts: 503 with Retry-After, so that no client waits for a migration.

The port is the one that the server serves on later. What is accepted there before is answered here.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from nextcloud_mcp_server.server.sockets import cannot_listen

#: Seconds after which a client may ask again.
RETRY_AFTER: Final = 5

#: Connections at once, bytes and seconds for the head of a request.
_MOST: Final = 100
_LARGEST: Final = 16 * 1024
_PATIENCE: Final = 10.0

#: Seconds in which a client may still send the body of its request.
_LINGER: Final = 0.5

_LIVE: Final = b"/health/live"


class _Answers:
    def __init__(self) -> None:
        self.running: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a connection has a task")
        self.running.add(task)
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
                if len(self.running) <= _MOST:
                    async with asyncio.timeout(_PATIENCE):
                        await self._answer(reader, writer)
        except asyncio.LimitOverrunError:
            pass
        finally:
            self.running.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, *_ = head.split(b" ", 2)
        writer.write(_response(method, target.split(b"?")[0]))
        await writer.drain()
        writer.write_eof()
        # Closed with unread data, the client could lose the answer.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while await reader.read(_LARGEST):
                    pass


def _response(method: bytes, path: bytes) -> bytes:
    if path == _LIVE:
        status, facts = "200 OK", {"status": "live"}
    else:
        status = "503 Service Unavailable"
        facts = {"status": "unavailable", "reason": "The server is starting."}
    body = json.dumps(facts).encode()
    head = (
        f"HTTP/1.1 {status}\r\nRetry-After: {RETRY_AFTER}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)


@asynccontextmanager
async def answering(sockets: list[socket.socket]) -> AsyncIterator[None]:
    """Listen on bound sockets and answer 503 during the ``with`` block; 200 for /health/live.

    They listen afterwards too: who connects between this and the server is answered by it.

    Raises:
        TokenStorageError: ``cannot-listen`` if another program listens there.
    """
    answers = _Answers()
    servers: list[asyncio.Server] = []
    try:
        for bound in sockets:
            copy = bound.dup()
            try:
                servers.append(await asyncio.start_server(answers, sock=copy, limit=_LARGEST))
            except OSError as error:
                copy.close()
                host, port = bound.getsockname()[:2]
                raise cannot_listen(host, port, error) from error
        yield
    finally:
        for server in servers:
            server.close()
        if answers.running:
            _, late = await asyncio.wait(answers.running, timeout=_LINGER)
            for task in late:
                task.cancel()
