"""The command `stdio`, as an MCP client starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client

from nextcloud_mcp_server.settings.nextcloud import AccountSettings
from tests.support.child import ROOT
from tests.support.files import names
from tests.support.nextcloud.server import StandIn
from tests.tools.conftest import account
from tests.tools.test_list import NAMES, WRITES

PROGRAM = ("-m", "nextcloud_mcp_server", "stdio")


def environment(settings: AccountSettings, **more: str) -> dict[str, str]:
    """Return the variables of an account."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "NEXTCLOUD_HOST": settings.host,
        "NEXTCLOUD_USERNAME": settings.username,
        "NEXTCLOUD_PASSWORD": settings.password,
        **more,
    }


@pytest.mark.parametrize("era", ["legacy", "auto"])
async def test_a_client_starts_it_and_uses_the_tools(
    era: str, stand_in: StandIn, tmp_path: Path
) -> None:
    """Both eras work over pipes; no log line has the password, also at debug; no file is made."""
    stand_in.state.put_file("alice", "a.txt", "Grüße".encode())
    settings = account(stand_in)
    parameters = StdioServerParameters(
        command=sys.executable,
        args=[*PROGRAM, "--debug"],
        env=environment(settings),
        cwd=tmp_path,
    )
    with (tmp_path.parent / "stderr").open("w+", encoding="utf-8") as log:
        async with Client(stdio_client(parameters, errlog=log), mode=era) as client:
            assert client.protocol_version == ("2025-11-25" if era == "legacy" else "2026-07-28")
            assert "data" in (client.instructions or "")
            listed = {tool.name for tool in (await client.list_tools()).tools}
            assert listed == NAMES - {"files_share"}
            read = await client.call_tool("files_read", {"path": "a.txt"})
            assert (read.structured_content or {})["text"] == "Grüße"
            written = await client.call_tool("notes_write", {"title": "From stdio"})
            assert not written.is_error
            assert (await client.call_tool("files_read", {"path": "none"})).is_error
        log.seek(0)
        lines = log.read().splitlines()
    assert [note.title for note in stand_in.state.users["alice"].notes.values()] == ["From stdio"]
    assert lines[0].endswith(f"info: serving alice@example.com of {stand_in.url} over stdio")
    assert lines[-1].endswith("info: stopped")
    assert settings.password not in "".join(lines)
    assert names(tmp_path) == set()


async def test_a_refused_password_is_tried_once_and_not_logged(
    stand_in: StandIn, tmp_path: Path
) -> None:
    """The program goes on, tells what to do, and sends the password no second time."""
    settings = account(stand_in, password="planted-secret-password")
    parameters = StdioServerParameters(
        command=sys.executable, args=[*PROGRAM, "--debug"], env=environment(settings), cwd=tmp_path
    )
    with (tmp_path / "stderr").open("w+", encoding="utf-8") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            await client.list_tools()
            for _ in range(3):
                result = await client.call_tool("whoami")
                assert result.is_error
                assert "Devices & sessions" in str(result.content)
                assert settings.password not in str(result)
        log.seek(0)
        text = log.read()
    assert stand_in.state.wrong_logins == 1
    assert "looks like a login password" in text
    assert settings.password not in text


class Process:
    """The command with pipes."""

    def __init__(self, env: dict[str, str], *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *PROGRAM, *arguments],
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a request of the era with a handshake, and return the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def initialize(self) -> dict[str, Any]:
        """Begin a session, so that the program is running."""
        client = {"name": "test", "version": "1"}
        return self.ask(
            "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client
        )

    def end(self) -> tuple[int, str, str]:
        """Wait for the end, and return the exit status, stdout and stderr."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def started(env: dict[str, str], *arguments: str) -> Iterator[Process]:
    """Start the command, and kill it if the test fails."""
    running = Process(env, *arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


def test_it_ends_with_its_input(stand_in: StandIn) -> None:
    """The exit status is 0, and stdout has nothing but messages."""
    with started(environment(account(stand_in))) as running:
        assert running.initialize()["result"]["serverInfo"]["name"] == "nextcloud-mcp-server"
        status, out, err = running.end()
    assert (status, out) == (0, "")
    assert [line.split(" ", 1)[1] for line in err.splitlines()][-1] == "info: stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_though_its_input_is_open(number: int, stand_in: StandIn) -> None:
    """The exit status is 0, without a traceback."""
    with started(environment(account(stand_in))) as running:
        running.initialize()
        running.process.send_signal(number)
        deadline = time.monotonic() + 60
        while running.process.poll() is None:
            assert time.monotonic() < deadline, "it still runs"
            time.sleep(0.01)
        status, out, err = running.end()
    assert (status, out) == (0, "")
    assert err.endswith("info: stopped\n")
    assert "Traceback" not in err


def test_a_signal_ends_a_call_that_waits(stand_in: StandIn) -> None:
    """A Nextcloud that does not answer does not hold up the end."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with started(environment(account(stand_in, host=host))) as running:
            running.initialize()
            assert running.process.stdin is not None
            params = {"name": "whoami", "arguments": {}}
            message = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
            running.process.stdin.write(json.dumps(message) + "\n")
            running.process.stdin.flush()
            connection, _ = silent.accept()
            begun = time.monotonic()
            running.process.terminate()
            status, _, err = running.end()
            connection.close()
    assert status == 0, err
    assert time.monotonic() - begun < 15
    assert "Traceback" not in err


def test_a_client_that_closed_its_end_is_no_error(stand_in: StandIn) -> None:
    """A broken pipe ends the program without a traceback."""
    with started(environment(account(stand_in))) as running:
        running.initialize()
        assert running.process.stdout is not None
        assert running.process.stdin is not None
        running.process.stdout.close()
        message = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        running.process.stdin.write(json.dumps(message) + "\n")
        running.process.stdin.flush()
        assert running.process.wait(60) == 0
        assert running.process.stderr is not None
        assert "Traceback" not in running.process.stderr.read()
        # communicate() would flush a closed pipe.
        running.process.stdout = None


def test_a_line_that_is_no_message_is_answered(stand_in: StandIn) -> None:
    """The session goes on after it, and after a long message in several pieces."""
    with started(environment(account(stand_in))) as running:
        running.initialize()
        assert running.process.stdin is not None
        running.process.stdin.write("no json\n")
        long = running.ask("tools/call", name="files_read", arguments={"path": "x" * 300_000})
        assert "too long" in json.dumps(long)
        assert running.end()[0] == 0


def test_nothing_configured_starts_and_says_what_to_set() -> None:
    """The first line of stderr names the variables, and so does each tool."""
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    with started(env) as running:
        running.initialize()
        answer = running.ask("tools/call", name="whoami", arguments={})
        text = answer["result"]["content"][0]["text"]
        status, _, err = running.end()
    assert status == 0
    for told in (text, err.splitlines()[0]):
        assert "NEXTCLOUD_HOST, NEXTCLOUD_USERNAME, NEXTCLOUD_PASSWORD are not set" in told


def test_read_only_is_read_from_the_environment(stand_in: StandIn) -> None:
    """READ_ONLY wins over SHARE_LINKS."""
    env = environment(account(stand_in), READ_ONLY="true", SHARE_LINKS="true")
    with started(env) as running:
        running.initialize()
        listed = running.ask("tools/list")["result"]["tools"]
        assert {tool["name"] for tool in listed} == NAMES - WRITES
        answer = running.ask("tools/call", name="whoami", arguments={})
        scopes = answer["result"]["structuredContent"]["scopes"]
        assert scopes == ["calendar:read", "contacts:read", "files:read", "notes:read"]
        running.end()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NEXTCLOUD_HOST", "127.0.0.1"),
        ("NEXTCLOUD_HOST", "https://alice:planted@cloud.example.com"),
        ("READ_ONLY", "maybe"),
        ("SHARE_LINKS", "2"),
    ],
)
def test_a_wrong_value_is_told_by_each_tool(variable: str, value: str, stand_in: StandIn) -> None:
    """It starts, as a client shows nothing of a process that ends, and asks no Nextcloud."""
    with started(environment(account(stand_in), **{variable: value})) as running:
        running.initialize()
        assert running.ask("tools/list")["result"]["tools"]
        answer = running.ask("tools/call", name="whoami", arguments={})
        text = answer["result"]["content"][0]["text"]
        status, _, err = running.end()
    assert status == 0
    for told in (text, err.splitlines()[0]):
        assert f"No Nextcloud is connected: {variable} is " in told
        assert "Set " in told
        assert "planted" not in told
    assert stand_in.state.seen == []


def test_the_log_can_be_json(stand_in: StandIn) -> None:
    """Each line of stderr is an object."""
    with started(environment(account(stand_in)), "--log-format", "json") as running:
        running.initialize()
        status, _, err = running.end()
    assert status == 0
    assert [json.loads(line)["level"] for line in err.splitlines()] == ["info", "info"]
