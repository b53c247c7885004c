"""The server process with NEXTCLOUD_HOST, and the application without it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.server.helpers import Server
from tests.support.contents import KEY, OTHER_KEY
from tests.support.nextcloud.server import running, served

if TYPE_CHECKING:
    from starlette.testclient import TestClient


def test_the_process_says_where_clients_connect(database: Path) -> None:
    """The default of PUBLIC_URL is the port that it listens on, and /mcp asks for a token."""
    env = {"NEXTCLOUD_HOST": "https://cloud.example.com"}
    with Server(database, **env) as server:
        line = server.line("MCP clients connect to ")
        url = line.removeprefix("MCP clients connect to ").strip()
        server.line("listening on ")
        assert "nextcloud: https://cloud.example.com" in "\n".join(server.output)
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(url, b"{}", {"Content-Type": "application/json"}))  # noqa: S310 - loopback
        assert caught.value.code == 401
        caught.value.close()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"installed": true, "maintenance": true}', "Nextcloud is in maintenance mode."),
        (b'{"installed": false}', "it is not installed yet. Set NEXTCLOUD_HOST to"),
        (b"<html>", "its status.php is none of Nextcloud"),
        (None, "status 404 at /status.php"),
    ],
)
def test_an_unusable_nextcloud_is_named_once(body: bytes | None, said: str, database: Path) -> None:
    """The server starts, and one warning says what is wrong there."""

    async def answer(_request: object) -> Response:
        return Response(body, 200 if body else 404)

    nextcloud = Starlette(routes=[Route("/status.php", answer)])
    with served(nextcloud) as url, Server(database, NEXTCLOUD_HOST=url) as server:
        server.url()
        warned = server.error("Nobody can use Nextcloud now: ")
        assert said in warned
        _, errors = server.stop()
    assert "Nobody can use" not in errors


def test_a_nextcloud_that_is_down_is_named_with_the_reason(database: Path) -> None:
    """The server starts at once, and the warning is for an operator."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with Server(database, NEXTCLOUD_HOST=url) as server:
        server.url()
        warned = server.error("Nobody can use Nextcloud now: ")
    assert f"No connection to Nextcloud at {url}: the connection was refused." in warned


def test_a_silent_or_usable_nextcloud_delays_nothing(database: Path) -> None:
    """A question without an answer does not hold up the start or the stop; an answer is silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Server(database, NEXTCLOUD_HOST=url) as server:
            server.url()
            silent.accept()[0].close()
            status, errors = server.stop()
    assert status == 0
    assert "Traceback" not in errors
    with running() as nextcloud, Server(database, NEXTCLOUD_HOST=nextcloud.url) as server:
        server.url()
        while not nextcloud.state.seen:
            time.sleep(0.01)
        status, errors = server.stop()
    assert (status, "warning" in errors) == (0, False)


def test_what_is_allowed_and_who_can_connect_is_printed(database: Path) -> None:
    """READ_ONLY and SHARE_LINKS, and that other machines need PUBLIC_URL."""
    env = {"NEXTCLOUD_HOST": "http://127.0.0.1:9", "READ_ONLY": "true", "SHARE_LINKS": "true"}
    every = "from nextcloud_mcp_server.server.run import serve; serve('0.0.0.0', 0)"
    with Server(database, command=("-c", every), **env) as server:
        server.url()
        _, errors = server.stop()
    assert "READ_ONLY: nothing in Nextcloud is changed" in server.output
    assert "SHARE_LINKS: no effect, because of READ_ONLY" in server.output
    assert "PUBLIC_URL is not set" in errors


def test_a_start_that_fails_does_not_say_where_clients_connect(database: Path) -> None:
    """With a wrong key nobody can connect."""

    async def store() -> None:
        async with RefreshTokenStorage(database, encryption_key=KEY) as storage:
            await storage.store_refresh_token("alice", "token")

    asyncio.run(store())
    env = {"NEXTCLOUD_HOST": "http://127.0.0.1:9", "TOKEN_ENCRYPTION_KEY": OTHER_KEY}
    with Server(database, **env) as server:
        status, errors = server.end()
    assert (status, "[wrong-key]" in errors) == (1, True)
    assert "MCP clients connect" not in "".join(server.output)


def test_a_variable_without_a_nextcloud_is_named(database: Path) -> None:
    """One line says that it has no effect; a variable that is empty is not named."""
    env = {"PUBLIC_URL": "https://mcp.example.com", "SHARE_LINKS": "true"}
    with Server(database, **env, NEXTCLOUD_HOST="", NEXTCLOUD_PUBLIC_URL="") as server:
        server.url()
        _, errors = server.stop()
    said = "PUBLIC_URL and SHARE_LINKS have no effect: NEXTCLOUD_HOST is not set, so nobody can"
    assert errors.count(said) == 1


def test_without_a_nextcloud_nothing_is_imported_or_served(client: TestClient) -> None:
    """The endpoints do not exist."""
    for path in ("/mcp", "/authorize", "/.well-known/oauth-authorization-server"):
        assert client.get(path).status_code == 404


def test_the_application_alone_does_not_import_mcp() -> None:
    """The libraries of MCP are loaded only by a server with a Nextcloud."""
    code = "import sys, nextcloud_mcp_server.server.app; print('mcp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
