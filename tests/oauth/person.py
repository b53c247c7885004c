"""A person with a browser, and the server that the person signs in at."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import httpx2

from nextcloud_mcp_server.oauth.home_pages import SIGN_IN
from tests.support.nextcloud.server import StandIn


@dataclass(frozen=True)
class Served:
    """A running server, its database and its Nextcloud."""

    url: str
    database: Path
    nextcloud: StandIn

    @property
    def resource(self) -> str:
        """The address of the MCP endpoint."""
        return f"{self.url}/mcp"


class Program:
    """Something that sends requests to the server until the ``with`` block ends."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.http = httpx2.Client(base_url=served.url, trust_env=False, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()


class Browser(Program):
    """A browser: it keeps cookies, follows redirects only when it is told to."""

    def __init__(self, served: Served) -> None:
        super().__init__(served)
        self.http.headers["Accept"] = "text/html,application/xhtml+xml,*/*;q=0.8"

    def open(self, url: str) -> httpx2.Response:
        """Load a page of the server; redirects within it are followed."""
        response = self.http.get(url)
        while response.is_redirect and response.headers["Location"].startswith(
            (self.served.url, "/")
        ):
            response = self.http.get(response.headers["Location"])
        return response

    def decide(
        self, page: httpx2.Response, action: str = "allow", scopes: Sequence[str] | None = None
    ) -> httpx2.Response:
        """Send the form of the consent page, with every scope or with these."""
        data = {**hidden(page), "action": action}
        chosen = offered(page) if scopes is None else list(scopes)
        response = self.http.post("/authorize/consent", data={**data, "scope": chosen})
        return self.open(response.headers["Location"]) if response.is_redirect else response

    def sign_in(self, url: str, user: str = "alice", scopes: Sequence[str] | None = None) -> str:
        """Go the whole way, and return the address that leads back to the client."""
        waiting = self.decide(self.open(url), scopes=scopes)
        self.served.nextcloud.state.grant(login_url(waiting), user)
        return way_back(self.after_pause(waiting))

    def sign_in_at_home(self, user: str = "alice", path: str = "/") -> httpx2.Response:
        """Sign in on this server's own page, and return the page to which that leads."""
        waiting = self.send(SIGN_IN, self.open(path))
        self.served.nextcloud.state.grant(login_url(waiting), user)
        return self.after_pause(waiting)

    def send(self, path: str, page: httpx2.Response, **fields: object) -> httpx2.Response:
        """Send a form of a page with its first hidden fields, and return what follows."""
        token = {name: value for name, value in hidden(page).items() if name == "csrf"}
        kept = inner_form(page, path) if not fields else {}
        response = self.http.post(path, data={**token, **kept, **fields})
        return self.open(response.headers["Location"]) if response.is_redirect else response

    def after_pause(self, page: httpx2.Response) -> httpx2.Response:
        """Load a page again when the server polls Nextcloud again."""
        time.sleep(1.05)
        return self.open(str(page.url))


def hidden(page: httpx2.Response) -> dict[str, str]:
    """Return the hidden fields of a form."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    return {name: unescape(value) for name, value in found}


def inner_form(page: httpx2.Response, path: str) -> dict[str, list[str]]:
    """Return the hidden fields of the first form that is sent to ``path``."""
    [form, *_] = re.findall(rf'action="{path}">(.*?)</form>', page.text, re.DOTALL)
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form):
        found.setdefault(name, []).append(unescape(value))
    return found


def offered(page: httpx2.Response) -> list[str]:
    """Return the scopes that a consent page offers."""
    return re.findall(r'name="scope" value="([^"]*)"', page.text)


def login_url(page: httpx2.Response) -> str:
    """Return the link to Nextcloud on the page that waits."""
    [url] = re.findall(r'href="([^"]*/login/v2/[^"]*)"', page.text)
    return unescape(url)


def way_back(page: httpx2.Response) -> str:
    """Return the address to which the last page leads."""
    [url] = re.findall(r'http-equiv="refresh" content="1;url=([^"]*)"', page.text)
    return unescape(url)


def answer(url: str) -> dict[str, str]:
    """Return the parameters of an answer to the client."""
    return dict(parse_qsl(urlsplit(url).query))


class Client(Program):
    """An MCP client without the SDK, so that a test can send what no good client sends."""

    def __init__(
        self, served: Served, redirect_uri: str = "http://127.0.0.1:4711/callback"
    ) -> None:
        super().__init__(served)
        self.redirect_uri = redirect_uri
        self.verifier = secrets.token_urlsafe(48)
        self.id = ""

    def register(self, **metadata: object) -> httpx2.Response:
        """Register, and keep the id."""
        body = {"client_name": "Test client", "redirect_uris": [self.redirect_uri], **metadata}
        response = self.http.post("/register", json=body)
        self.id = response.json().get("client_id", "")
        return response

    def url(self, **parameters: str | None) -> str:
        """Return the address at which a person begins to sign in."""
        challenge = hashlib.sha256(self.verifier.encode()).digest()
        given = {
            "response_type": "code",
            "client_id": self.id,
            "redirect_uri": self.redirect_uri,
            "code_challenge": base64.urlsafe_b64encode(challenge).decode().rstrip("="),
            "code_challenge_method": "S256",
            "state": "state-1",
            "resource": self.served.resource,
            **parameters,
        }
        query = {name: value for name, value in given.items() if value is not None}
        return str(httpx2.URL(f"{self.served.url}/authorize", params=query))

    def redeem(self, code: str, **changes: str) -> httpx2.Response:
        """Exchange a code."""
        data = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self.id,
            "code_verifier": self.verifier,
            "resource": self.served.resource,
            **changes,
        }
        return self.http.post("/token", data=data)

    def refresh(self, token: str, **changes: str) -> httpx2.Response:
        """Exchange a refresh token."""
        data = {
            "grant_type": "refresh_token",
            "refresh_token": token,
            "client_id": self.id,
            **changes,
        }
        return self.http.post("/token", data=data)

    def call(self, token: str, tool: str = "whoami", **headers: str) -> httpx2.Response:
        """Call a tool without arguments, in the stateless protocol."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": tool, "arguments": {}, "_meta": meta},
        }
        return self.http.post(
            "/mcp",
            json=body,
            headers={
                "Authorization": f"Bearer {token}",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": "tools/call",
                "Mcp-Name": tool,
                **headers,
            },
        )
