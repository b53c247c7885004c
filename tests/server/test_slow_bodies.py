"""Requests whose body arrives slowly, or never, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from nextcloud_mcp_server.server import limits
from nextcloud_mcp_server.server.limits import Connection, Connections
from tests.server.helpers import Server
from tests.server.test_limits import FEW, connect, until
from tests.support.nextcloud.server import running

#: Python code that sets the seconds without a byte of a body, and in all.
LIMITS = """
from nextcloud_mcp_server.server import limits
limits.BODY_SILENCE, limits.BODY_TIMEOUT = {}, {}
"""
#: A route that reads a body is one of OAuth. This Nextcloud is not asked.
NEXTCLOUD = {"NEXTCLOUD_HOST": "http://127.0.0.1:9"}


def head(length: int) -> bytes:
    """Return the head of a request with a form of so many bytes."""
    return (
        "POST /token HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def drip(client: socket.socket, pieces: int) -> bytes:
    """Send a byte five times a second, and return what is answered."""
    client.settimeout(0.2)
    for _ in range(pieces):
        client.sendall(b"a")
        try:
            return client.recv(1000)
        except TimeoutError:
            pass
    client.settimeout(10)
    return client.recv(1000)


@pytest.mark.parametrize("sent", [b"", b"a=b"])
def test_a_body_that_does_not_arrive_is_not_waited_for(sent: bytes, token_db: Path) -> None:
    """After some seconds without a byte it gets 408, and nothing is logged."""
    first = LIMITS.format(0.5, 60.0)
    with running() as nextcloud, Server(token_db, first, NEXTCLOUD_HOST=nextcloud.url) as server:
        with connect(server.url()) as client:
            client.sendall(head(10) + sent)
            begun = time.monotonic()
            assert client.recv(1000).startswith(b"HTTP/1.1 408")
            assert client.recv(1000) == b""
            assert 0.3 < time.monotonic() - begun < 5
        assert server.stop() == (0, "")


def test_a_body_that_drips_ends(token_db: Path) -> None:
    """One byte now and then does not hold a connection for ever; an upload that is done does."""
    with Server(token_db, LIMITS.format(1.0, 1.5), **NEXTCLOUD) as server:
        url = server.url()
        with connect(url) as client:
            client.sendall(head(1_000))
            begun = time.monotonic()
            assert drip(client, 30).startswith(b"HTTP/1.1 408")
            assert time.monotonic() - begun < 5
        with connect(url) as client:
            client.sendall(head(5))
            assert drip(client, 5).startswith(b"HTTP/1.1 401")
        server.stop()


def test_slow_bodies_keep_nobody_out(token_db: Path) -> None:
    """With more of them than descriptors the server answers, long before their time is over."""
    with ExitStack() as crowd:
        nextcloud = crowd.enter_context(running())
        server = crowd.enter_context(Server(token_db, FEW, NEXTCLOUD_HOST=nextcloud.url))
        url = server.url()
        for _ in range(80):
            crowd.enter_context(connect(url)).sendall(head(10))
        time.sleep(1.5)
        for path in ("/health/live", "/health/ready"):
            assert httpx.get(url + path, timeout=10).status_code == 200
        status, err = server.stop()
    assert (status, err) == (0, "")


def test_bodies_that_may_stall_keep_others_out(token_db: Path) -> None:
    """The control of the test above: nobody is answered if they do not make room."""
    patient = f"{FEW}\nfrom nextcloud_mcp_server.server import limits\nlimits._STALLED = 3600\n"
    with ExitStack() as crowd:
        server = crowd.enter_context(Server(token_db, patient, **NEXTCLOUD))
        url = server.url()
        for _ in range(80):
            crowd.enter_context(connect(url)).sendall(head(10))
        time.sleep(1.5)
        assert httpx.get(f"{url}/health/live", timeout=10).status_code == 503


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[tuple[Connections, str, int]]:
    """Serve an application on this loop."""
    connections, state = Connections(most=10), ServerState()
    config = uvicorn.Config(app, lifespan="off", log_level="error")
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, {}, connections=connections), "127.0.0.1", 0
    )
    async with server:
        yield connections, *server.sockets[0].getsockname()


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, as an application."""
    while (await receive()).get("more_body"):
        pass


async def test_a_body_makes_room_when_it_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of which a part has come just now, nor one that has arrived and is not read."""
    monkeypatch.setattr(limits, "_STALLED", 60.0)
    async with serving(read_all) as (connections, host, port):
        _, writer = await asyncio.open_connection(host, port)
        writer.write(head(10))
        await until(lambda: bool(connections.sending))
        assert connections.idle() is None
        [each] = connections.sending
        connections.sending[each] -= 60
        assert connections.idle() is each
        writer.write(b"a")  # It is sent at once, and the loop has had no turn to read it.
        assert connections.idle() is None
        writer.close()
        await writer.wait_closed()


async def test_an_answer_that_has_begun_has_no_second_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the body is late, the connection is closed, and its answer has no 408 in it."""
    monkeypatch.setattr(limits, "BODY_SILENCE", 0.1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await read_all(scope, receive, send)

    async with serving(app) as (_, host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(head(10))
        answer = await asyncio.wait_for(reader.read(), 10)
        assert (b"begun" in answer, b"408" in answer) == (True, False)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    "more",
    ["", "Expect: 100-continue\r\n"],
    ids=["buffers-full", "asks-first"],
)
async def test_a_body_that_is_not_read_yet_has_time(
    more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the application does not read, the client cannot send: that is not its silence."""
    monkeypatch.setattr(limits, "BODY_SILENCE", 0.1)
    monkeypatch.setattr(limits, "_STALLED", 0.1)
    may_read = asyncio.Event()
    size = 1_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_read.wait()
        await read_all(scope, receive, send)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with serving(app) as (connections, host, port):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"PUT / HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {size}\r\n\r\n".encode())
        if not more:
            writer.write(b"x" * size)
        await asyncio.sleep(0.5)
        assert [each.is_stalled() for each in connections.sending] == [False]
        may_read.set()
        if more:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(b"x" * size)
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        writer.close()
        await writer.wait_closed()
        assert connections.sending == {}
