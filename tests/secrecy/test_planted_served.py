"""Secrets of people, clients and the operator are in no output of the running server.

Nextcloud is hostile in between: its errors repeat what it was sent.
"""

from __future__ import annotations

import base64
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest
from mcp import Client as Sdk
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client
from starlette.requests import Request
from starlette.responses import Response

from nextcloud_mcp_server.oauth import home_pages
from tests.cli.places import environment, process
from tests.oauth.person import Browser, Client, Served, answer, hidden, login_url, way_back
from tests.secrecy.planted import KEYS, forms
from tests.support.nextcloud.app import Application
from tests.support.nextcloud.server import StandIn, served
from tests.support.nextcloud.state import State

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

STATUS_TOKEN: Final = "pLaNt3d-status-token-0123456789-abcdef"

#: Every library at DEBUG, with the arguments of its records, beside the log of the server.
EVERYTHING: Final = """
import logging, runpy, sys
logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s %(args)s")
sys.argv[0] = "nextcloud-mcp-server"
runpy.run_module("nextcloud_mcp_server", run_name="__main__")
"""

#: What Nextcloud answers while it is hostile: a status, the kind of its body, and a template.
ANSWERS: Final = (
    (401, "application/json", '{{"ocs": {{"meta": {{"message": "{}"}}, "data": []}}}}'),
    (500, "application/json", '{{"message": "{}"}}'),
    (500, "application/xml", "<d:error xmlns:d='DAV:' xmlns:s='x'><s:message>{}</s:message>"),
    (403, "application/json", '{{"ocs": {{"meta": {{"message": "no {}"}}, "data": []}}}}'),
    (200, "text/html", "<html>{}</html>"),
    (200, "application/json", '{{"token": "{}"'),
    (200, "application/json", '{{"loginName": "{}", "appPassword": 5}}'),
    (301, "text/html", "{}"),
)


class Hostile:
    """A Nextcloud that repeats in its errors what it was sent, if ``mood`` is one of ANSWERS."""

    def __init__(self, state: State) -> None:
        self.app = Application(state)
        self.mood: tuple[int, str, str] | None = None
        self.cut = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self.cut:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            raise ConnectionError
        if self.mood is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        sent = (await request.body()).decode("utf-8", "replace")
        given = request.headers.get("Authorization", "").partition(" ")[2]
        plain = base64.b64decode(given).decode()
        status, kind, template = self.mood
        told = f"{plain} {given} {sent[:400]}".replace('"', "'").replace("<", " ")
        headers = {"Location": f"http://{plain.rpartition(':')[2] or 'x'}.example/{given}"}
        response = Response(template.format(told), status, headers, kind)
        await response(scope, receive, send)


@dataclass
class Running:
    """The server as a process, whose output goes to files."""

    folder: Path
    process: subprocess.Popen[bytes]
    secrets: dict[str, str] = field(default_factory=dict)
    places: dict[str, bytes] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def url(self) -> str:
        """Wait for its address."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            text = (self.folder / "out").read_text() + (self.folder / "err").read_text()
            if found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", text):
                return found[1]
            time.sleep(0.05)
        raise AssertionError((self.folder / "err").read_text())

    def found(self) -> list[str]:
        """Return which secret is in which place."""
        return [
            f"{place}: {name}"
            for place, content in self.places.items()
            for name, secret in self.secrets.items()
            if any(form in content for form in forms(secret))
        ]


@contextmanager
def server(folder: Path, nextcloud: str, code: str = "", **more: str) -> Iterator[Running]:
    """Run the server with the settings of an operator."""
    command = ["-c", code] if code else ["-m", "nextcloud_mcp_server"]
    env = {
        "NEXTCLOUD_HOST": nextcloud,
        "TOKEN_STORAGE_DB": str(folder / "tokens.db"),
        "TOKEN_ENCRYPTION_KEY": KEYS["key"],
        "STATUS_TOKEN": STATUS_TOKEN,
        "NEXTCLOUD_MCP_LOG_LEVEL": "debug",
        "NEXTCLOUD_MCP_ACCESS_LOG": "1",
        "PYTHONASYNCIODEBUG": "1",
        **more,
    }
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        program = subprocess.Popen(
            [sys.executable, *command, "run", "--port", "0"],
            cwd=folder,
            env=environment(folder, env),
            stdout=out,
            stderr=err,
        )
        with Running(folder, program) as running:
            running.secrets = {"key": KEYS["key"], "status token": STATUS_TOKEN}
            running.secrets["raw key"] = base64.urlsafe_b64decode(KEYS["key"]).decode()
            yield running


def dance(running: Running, here: Served, hostile: Hostile) -> None:
    """Sign in, call, refresh, reuse, widen, disconnect; at each step Nextcloud also fails."""
    state, known = here.nextcloud.state, running.secrets
    known["login password"] = state.users["alice"].password
    with Browser(here) as browser, Client(here) as client:
        client.register()
        for number in range(2):
            consent = browser.open(client.url())
            for mood in ANSWERS[:3] if number else ANSWERS:
                hostile.mood = mood
                browser.decide(consent)
            hostile.mood = None
            waiting = browser.decide(consent)
            known[f"poll token {number}"] = list(state.flows)[-1]
            known[f"login link {number}"] = list(state.links)[-1]
            hostile.mood = ANSWERS[4 + number]
            browser.after_pause(waiting)
            hostile.mood = None
            known[f"app password {number}"] = state.grant(login_url(waiting), "alice")
            done = browser.after_pause(waiting)
            code = answer(way_back(done))
            known[f"code {number}"] = code["code"]
            client.redeem(code["code"], code_verifier="x" * 43)
            client.redeem(code["code"], grant_type="nonsense")
            issued = client.redeem(code["code"]).json()
            known[f"access token {number}"] = issued["access_token"]
            known[f"refresh token {number}"] = issued["refresh_token"]
            client.call(issued["access_token"])
            renewed = client.refresh(issued["refresh_token"]).json()
            known[f"second token {number}"] = renewed["access_token"]
            known[f"second refresh token {number}"] = renewed["refresh_token"]
            client.refresh(issued["refresh_token"])
            client.refresh(renewed["refresh_token"], scope="nonsense")
            client.http.post("/revoke", data={"token": renewed["access_token"]})
            calls(running, client, here, hostile, renewed["access_token"])
            for name, value in browser.http.cookies.items():
                known[f"cookie {name} {number}"] = value
        home(running, browser, here, hostile)
        client.redeem(known["code 0"])
        client.refresh(known["refresh token 0"])
        running.places["revoked"] = client.call(known["second token 1"]).content


def calls(running: Running, client: Client, here: Served, hostile: Hostile, token: str) -> None:
    """Call a tool while Nextcloud answers in each way; only the last answer costs the password."""
    for number, mood in enumerate((*ANSWERS[1:], None)):
        hostile.mood = mood
        running.places[f"tool {number}"] = client.call(token).content
    hostile.cut = True
    running.places["tool cut"] = client.call(token).content
    hostile.cut = False
    # A client that goes away in the middle of its request, and one that sends rubbish.
    host, port = here.url.removeprefix("http://").split(":")
    for body in (b'{"jsonrpc"', b"not json at all"):
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + body)
    for path in (f"/nowhere?x={token}", f"/home/scopes?grant={token}", f"/authorize?state={token}"):
        client.http.get(path, headers={"Cookie": f"x={token}"})


def home(running: Running, browser: Browser, here: Served, hostile: Hostile) -> None:
    """Sign in at home, widen, and disconnect, first while Nextcloud fails; bob looks meanwhile."""
    known = running.secrets
    page = browser.sign_in_at_home()
    known["home cookie"] = browser.http.cookies["nextcloud-mcp-home"]
    known["form token"] = hidden(page)["csrf"]
    [grant, *_] = re.findall(r'name="grant" value="(\w+)"', page.text)
    asked = browser.open(f"{home_pages.SCOPES}?grant={grant}&scope=files:write")
    browser.send(home_pages.SCOPES, asked)
    with Browser(here) as other:
        running.places["page of bob"] = other.sign_in_at_home("bob").content
        operator = {"Authorization": f"Bearer {STATUS_TOKEN}"}
        for path, accept in (("/status", "*/*"), ("/status", "application/json"), ("/metrics", "")):
            answered = other.http.get(path, headers={**operator, "Accept": accept})
            assert answered.status_code == 200
            running.places[f"{path} {accept}"] = answered.content
        for path in ("/", "/health/ready", "/nowhere", "/.well-known/oauth-authorization-server"):
            running.places[f"page {path}"] = other.http.get(path).content
    asked = browser.send(home_pages.DISCONNECT, browser.open("/"))
    hostile.mood = ANSWERS[3]
    running.places["disconnected"] = browser.send(home_pages.DISCONNECT, asked).content
    hostile.mood = None


def look(running: Running) -> None:
    """Look at everything that the server leaves, while it runs and afterwards."""
    folder, pid = running.folder, running.process.pid
    running.places["processes"] = Path(f"/proc/{pid}/cmdline").read_bytes()
    done = process(
        "db",
        "backup",
        cwd=folder,
        environ={
            "TOKEN_STORAGE_DB": str(folder / "tokens.db"),
            "TOKEN_ENCRYPTION_KEY": KEYS["key"],
        },
    )
    assert done.status == 0, done.err
    running.places["db backup"] = (done.out + done.err).encode()
    with closing(sqlite3.connect(folder / "tokens.db")) as connection:
        running.places["rows"] = "\n".join(connection.iterdump()).encode()
    for file in folder.glob("tokens.db*"):
        running.places[file.name] = file.read_bytes()
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(60)
    for file in (*folder.glob("tokens.db*"), folder / "out", folder / "err"):
        running.places[f"{file.name} at the end"] = file.read_bytes()


@pytest.mark.parametrize("form", ["text", "json", "every library"])
def test_no_secret_of_a_whole_dance_is_anywhere(form: str, tmp_path: Path) -> None:
    """Searched: stdout, stderr, pages of others, metrics, status, database, backup, processes."""
    state = State()
    state.add_user("alice", "pLaNt3d-alice-login-password", login_name="alice@example.com")
    state.add_user("bob", "pLaNt3d-bob-login-password")
    hostile = Hostile(state)
    code = EVERYTHING if form == "every library" else ""
    log = {"NEXTCLOUD_MCP_LOG_FORMAT": "json"} if form == "json" else {}
    with served(hostile) as url, server(tmp_path, url, code, **log) as running:
        here = Served(running.url(), tmp_path / "tokens.db", StandIn(url, state))
        dance(running, here, hostile)
        look(running)
    assert len(running.secrets) > 20
    assert len((tmp_path / "err").read_bytes()) > (50_000 if code else 1_000)
    assert running.found() == []
    # Control: the search finds what is there, also encoded.
    token = running.secrets["access token 1"]
    for control in (token, token.encode().hex(), base64.b64encode(f"x{token}".encode()).decode()):
        running.places = {"control": f"a line with {control}".encode()}
        assert running.found() == ["control: access token 1"]


@pytest.mark.parametrize("code", ["", EVERYTHING])
async def test_no_secret_of_one_person_is_printed(code: str, tmp_path: Path) -> None:
    """Over stdio: the password is in no log line and no result, whatever Nextcloud answers."""
    state = State()
    state.add_user("alice", "x", login_name="alice@example.com")
    password = state.app_password("alice")
    hostile = Hostile(state)
    command = ["-c", code] if code else ["-m", "nextcloud_mcp_server"]
    results = []
    with served(hostile) as url, (tmp_path / "err").open("w+", encoding="utf-8") as log:
        parameters = StdioServerParameters(
            command=sys.executable,
            args=[*command, "stdio", "--debug"],
            env=environment(
                tmp_path,
                {
                    "NEXTCLOUD_HOST": url,
                    "NEXTCLOUD_USERNAME": "alice@example.com",
                    "NEXTCLOUD_PASSWORD": password,
                },
            ),
            cwd=tmp_path,
        )
        async with Sdk(stdio_client(parameters, errlog=log)) as client:
            for mood in (None, *ANSWERS[1:], *ANSWERS[:1], None):
                hostile.mood = mood
                results += [str(await client.call_tool("whoami")), str(await client.list_tools())]
                results.append(str(await client.call_tool("files_read", {"path": 5})))
        log.seek(0)
        text = log.read()
    assert "alice@example.com" in text
    for content in (text, "\n".join(results)):
        assert not any(form in content.encode() for form in forms(password))
