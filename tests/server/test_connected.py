"""The server process with NEXTCLOUD_HOST, and the application without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.server.helpers import Server

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
