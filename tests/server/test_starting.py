"""While a migration runs, the port answers 503 with Retry-After."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import httpx
import pytest

from tests.server.helpers import SLOWLY, Server, revision, wait_for


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _command(port: int) -> tuple[str, ...]:
    code = "import sys; from nextcloud_mcp_server.server.run import serve; "
    return ("-c", f"{code}sys.exit(serve(port={port}))")


def test_every_path_answers_503_until_the_migration_has_ended(
    old_database: Path, head: str
) -> None:
    """MCP, OAuth and health alike; then the same port serves. The process counts as alive."""
    port = _free_port()
    env = {"NEXTCLOUD_HOST": "https://cloud.example.com"}
    with Server(old_database, SLOWLY, _command(port), **env) as server:
        wait_for(server.sign)
        url = f"http://127.0.0.1:{port}"
        for path in ("/", "/mcp", "/authorize", "/health/ready", "/status"):
            answer = httpx.get(f"{url}{path}?code=s3cret")
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["reason"] == "The server is starting."
        for path in ("/mcp", "/token", "/register"):
            assert httpx.post(f"{url}{path}", content=b"x" * 100_000).status_code == 503
        assert httpx.head(f"{url}/").content == b""
        assert httpx.get(f"{url}/health/live").json() == {"status": "live"}
        with socket.create_connection(("127.0.0.1", port)) as broken:
            broken.sendall(b"x" * 20_000)
        with socket.create_connection(("127.0.0.1", port)):
            assert revision(old_database) == "006"
            server.sign.unlink()
            assert server.url() == url
        assert httpx.get(f"{url}/health/ready").status_code == 200
        assert httpx.post(f"{url}/mcp", json={}).status_code == 401
        assert server.stop()[0] == 0
    assert revision(old_database) == head


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_record_of_a_request_has_its_id(database: Path, form: str) -> None:
    """The id is ours, also if the client sends one; nothing secret is in the log."""
    env = {"NEXTCLOUD_HOST": "http://127.0.0.1:9"}
    code = (
        "import sys; from nextcloud_mcp_server.server.run import serve\n"
        "from nextcloud_mcp_server.server.log import LogOptions\n"
        f"sys.exit(serve(port=0, log=LogOptions('debug', {form!r}, True)))"
    )
    with Server(database, command=("-c", code), **env) as server:
        if form == "text":
            url = server.url()
        else:
            found = re.search(r"http://127[\d.:]+", _listening(server))
            assert found
            url = found[0]
        headers = {
            "X-Request-ID": "f0re1gn",
            "Cookie": "nextcloud-mcp-home=s3cret",
            "Authorization": "Bearer s3cret",
        }
        for path in ("/?code=s3cret", "/mcp?token=s3cret", "/authorize/consent?session=s3cret"):
            answer = httpx.get(f"{url}{path}", headers=headers)
            mine = answer.headers.get_list("X-Request-ID")
            assert len(mine) == 1
            assert re.fullmatch("[0-9a-f]{16}", mine[0])
        _, log = server.stop()
    assert mine[0] in log
    assert "f0re1gn" not in log
    assert "s3cret" not in log


def _listening(server: Server) -> str:
    while "listening on" not in (line := server.line("{")):
        pass
    return line
