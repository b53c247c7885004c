"""The server at the limits of its process, and with clients that send slowly or nonsense."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from nextcloud_mcp_server.server.limits import Connection, Connections, OncePerSecond
from tests.server.helpers import Server
from tests.support.child import run_python

#: Python code that gives the process few descriptors, and little patience.
FEW = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160))
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
IMPATIENT = """
from nextcloud_mcp_server.server import limits
limits.HEAD_TIMEOUT = 0.4
"""


def connect(url: str) -> socket.socket:
    """Open a connection that sends nothing."""
    parts = urlsplit(url)
    return socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10)


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    """Close the connections of a test at its end."""
    with ExitStack() as stack:
        yield stack


def test_silent_connections_keep_nobody_out(token_db: Path, crowd: ExitStack) -> None:
    """With more silent connections than descriptors the server answers, and logs little."""
    with Server(token_db, FEW) as server:
        url = server.url()
        for _ in range(300):
            crowd.enter_context(connect(url))
        for path in ("/health/live", "/health/ready"):
            assert httpx.get(url + path, timeout=10).status_code == 200
        status, err = server.stop()
    assert status == 0
    assert len(err) < 2_000
    assert "Traceback" not in err


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until something holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0)


@pytest.fixture
async def slow_app() -> AsyncIterator[tuple[Connections, asyncio.Event, str, int]]:
    """Serve one connection at a time with an application that answers when it may."""
    connections, may_answer = Connections(most=1), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, lifespan="off", log_level="error")
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(config, state, {}, connections=connections), "127.0.0.1", 0
    )
    async with server:
        yield connections, may_answer, *server.sockets[0].getsockname()


@pytest.mark.parametrize("read", [True, False], ids=["being-answered", "not-read-yet"])
async def test_a_request_under_way_is_not_closed_for_others(
    read: bool, slow_app: tuple[Connections, asyncio.Event, str, int]
) -> None:
    """Only connections without a request make room: the newcomer gets status 503 instead."""
    connections, may_answer, host, port = slow_app
    reader, writer = await asyncio.open_connection(host, port)
    await until(lambda: bool(connections.waiting))
    (connection,) = connections.waiting
    assert connections.idle() is connection
    writer.write(REQUEST)  # It is sent at once, and the loop has had no turn to read it.
    if read:
        await until(lambda: not connections.waiting)
    assert connections.idle() is None
    newcomer, other = await asyncio.open_connection(host, port)
    assert (await newcomer.read()).startswith(b"HTTP/1.1 503")
    may_answer.set()
    assert (await reader.readline()).startswith(b"HTTP/1.1 204")
    for each in (writer, other):
        each.close()
        await each.wait_closed()


@pytest.mark.parametrize("sent", [b"", b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Slow: "])
def test_a_head_that_does_not_arrive_is_not_waited_for(sent: bytes, token_db: Path) -> None:
    """The connection is closed after some seconds; one that has sent a part gets status 408."""
    with Server(token_db, IMPATIENT) as server:
        with connect(server.url()) as silent:
            silent.sendall(sent)
            begun = time.monotonic()
            answer = silent.recv(1000)
            assert time.monotonic() - begun < 5
        assert answer[:12] == (b"HTTP/1.1 408" if sent else b"")
        assert server.stop()[0] == 0


def test_a_second_request_has_its_own_time(token_db: Path) -> None:
    """A slow head is not waited for on a connection that was answered before, either."""
    with Server(token_db, IMPATIENT) as server:
        with connect(server.url()) as client:
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
            client.sendall(b"GET /health/live HTTP/1.1\r\nX-Slow: ")
            rest = b""
            while piece := client.recv(1000):
                rest += piece
            assert b"408" in rest
        server.stop()


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        b"POST /health/live HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000,
    ],
    ids=["chunk", "length", "null", "tls", "long"],
)
def test_nonsense_gives_no_traceback(request_: bytes, token_db: Path) -> None:
    """The connection is answered or closed, and the server goes on."""
    with Server(token_db) as server:
        url = server.url()
        with connect(url) as client:
            client.sendall(request_)
            client.settimeout(10)
            while client.recv(1000):
                pass
        assert httpx.get(f"{url}/health/live").status_code == 200
        status, err = server.stop()
    assert (status, "Traceback" in err) == (0, False)


def test_a_request_for_a_websocket_logs_no_advice(token_db: Path) -> None:
    """The page is served, and nobody is told to install a library."""
    with Server(token_db) as server:
        headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert httpx.get(f"{server.url()}/health/live", headers=headers).status_code == 200
        _, err = server.stop()
    assert "WebSocket" not in err


def test_headers_that_anybody_can_send_are_not_believed(token_db: Path) -> None:
    """No answer repeats the Host or the address that a client claims."""
    with Server(token_db) as server:
        url = server.url()
        headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        for path in ("/health/live/", "/health/ready", "//evil.example"):
            answer = httpx.get(url + path, headers=headers, follow_redirects=False)
            assert "evil" not in answer.text + str(answer.headers)
        server.stop()


def test_the_limits_of_the_process_are_set(token_db: Path) -> None:
    """All allowed descriptors are used, and no core dump is written, which would hold the key."""
    first = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 1000))\n"
    with Server(token_db, first) as server:
        server.url()
        assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (1000, 1000)
        assert resource.prlimit(server.process.pid, resource.RLIMIT_CORE)[0] <= 1
        server.stop()


def test_a_repeated_warning_is_printed_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others, and what is no warning, are printed each time."""
    now = 100.0
    monkeypatch.setattr("nextcloud_mcp_server.server.limits.time.monotonic", lambda: now)
    once = OncePerSecond()

    def prints(text: str, level: int = logging.WARNING) -> bool:
        return once.filter(logging.LogRecord("a", level, "", 0, "%s", (text,), None))

    assert [prints("one"), prints("one"), prints("two"), prints("one")] == [
        True,
        False,
        True,
        False,
    ]
    assert [prints("one", logging.INFO), prints("one", logging.INFO)] == [True, True]
    now += 1.1
    assert [prints("one"), prints("one")] == [True, False]
    for number in range(1_000):
        assert prints(str(number))


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is of Linux")
def test_a_dump_handler_gets_no_memory() -> None:
    """The process is undumpable, because a handler of core dumps heeds no limit."""
    code = (
        "import ctypes\n"
        "from nextcloud_mcp_server.server.limits import raise_limits\n"
        "dumpable = lambda: ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
        "before = dumpable()\n"
        "raise_limits()\n"
        "print(before, dumpable())"
    )
    assert run_python(code) == "1 0"
