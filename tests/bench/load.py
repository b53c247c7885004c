"""Many sessions at once at the server process, by clients of the SDK, in front of a Nextcloud."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import cycle, islice
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from nextcloud_mcp_server.auth.mcp_tokens import new_token
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.oauth import scopes
from tests.bench.harness import Pairs, Row, fact
from tests.bench.place import KEY, Place
from tests.server.helpers import Server
from tests.support.child import Child

#: The eras of the protocol: sessions with a stream to the client, and requests alone.
_ERAS: Final = {"legacy": "2025-11-25", "2026-07-28": "2026-07-28"}

#: The calls of a session, in turns: an account, a folder, a file.
_CALLS: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("whoami", {}),
    ("files_list", {"path": ""}),
    ("files_read", {"path": "notes.txt"}),
)

#: What the server needs at most, in bytes.
_MEMORY: Final = 300 * 1024 * 1024

#: The address of the server in its tokens. The clients connect to its port.
_PUBLIC_URL: Final = "https://mcp.example.com"

_CLIENT: Final = "client-of-the-measurement"

#: Serves a Nextcloud with so many users, and prints their app passwords.
NEXTCLOUD: Final = """
import json, sys
from tests.bench.place import user
from tests.support.nextcloud.server import running

with running() as nextcloud:
    passwords = {}
    for who in map(user, range(int(sys.argv[1]))):
        nextcloud.state.add_user(who, f"login password of {who}")
        nextcloud.state.put_file(who, "notes.txt", b"a line\\n" * 200)
        passwords[who] = nextcloud.state.app_password(who)
    print(json.dumps([nextcloud.url, passwords]), flush=True)
    sys.stdin.read()
"""

#: Opens a session with each token, and prints the seconds of each call and the errors.
CLIENTS: Final = """
import asyncio, json, sys
from tests.bench.load import sessions

url, calls = sys.argv[1], int(sys.argv[2])
tokens = json.loads(sys.stdin.readline())
while mode := sys.stdin.readline().strip():
    print(json.dumps(asyncio.run(sessions(url, tokens, mode, calls))), flush=True)
"""


def rows(place: Place) -> Iterator[Row]:
    """Yield the figures of all sessions at once, in each era of the protocol."""
    many, calls, rounds = place.scale.sessions, place.scale.session_calls, place.scale.large
    nextcloud = Child(NEXTCLOUD, many)
    try:
        url, passwords = json.loads(nextcloud.answer())
        database = place.database("load", place.scale.rows[0])
        tokens = asyncio.run(_grants(database, url, passwords))
        with Server(
            database, TOKEN_ENCRYPTION_KEY=KEY, NEXTCLOUD_HOST=url, PUBLIC_URL=_PUBLIC_URL
        ) as server:
            clients = Child(CLIENTS, server.url(), calls)
            try:
                clients.tell(json.dumps(tokens))
                for mode, era in _ERAS.items():
                    yield from _era(clients, mode, f"{many} sessions at once in {era}", rounds)
            finally:
                clients.kill()
            used = _peak(server.process.pid)
            yield fact(
                f"memory of the server at its peak, with {many} sessions",
                f"{used / 1024**2:.0f} MB",
                f"under {_MEMORY / 1024**2:.0f} MB",
                holds=used < _MEMORY,
            )
            server.stop()
    finally:
        nextcloud.kill()


def _era(clients: Child, mode: str, what: str, rounds: int) -> Iterator[Row]:
    middle: list[float] = []
    late: list[float] = []
    made, errors = 0, []
    for _ in range(rounds):
        seconds, failed = json.loads(clients.ask(mode))
        made += len(seconds)
        errors += failed
        middle.append(median(seconds or [1.0]))
        late.append(_percentile(seconds or [1.0]))
    first = f": {errors[0]}" if errors else ""
    yield fact(f"{what}: errors", f"{len(errors)}, {made} calls{first}", "0", holds=not errors)
    pairs = Pairs(tuple(middle), tuple(late))
    yield pairs.judged(f"{what}: the 99th percentile of a call", "the median of a call", 5)


def _percentile(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=100, method="inclusive")[98] if len(seconds) > 1 else seconds[0]


async def sessions(
    url: str, tokens: Sequence[str], mode: str, calls: int
) -> tuple[list[float], list[str]]:
    """Open a session with each token at once, and call tools in each, one after the other.

    Returns:
        The seconds of each call, and what failed.
    """
    seconds: list[float] = []
    errors: list[str] = []

    async def one(token: str) -> None:
        try:
            async with AsyncExitStack() as stack:
                http = await stack.enter_async_context(_http(token))
                transport = streamable_http_client(f"{url}/mcp", http_client=http)
                client = await stack.enter_async_context(Client(transport, mode=mode))
                await client.list_tools()
                for name, arguments in islice(cycle(_CALLS), calls):
                    begun = time.perf_counter()
                    result = await client.call_tool(name, arguments)
                    seconds.append(time.perf_counter() - begun)
                    if result.is_error:
                        errors.append(f"{name}: {result.content}"[:200])
        except Exception as error:  # noqa: BLE001 - every error is a figure
            errors.append(_told(error))

    await asyncio.gather(*map(one, tokens))
    return seconds, errors


def _told(error: Exception) -> str:
    """Return the first of the errors that a group of tasks raises."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:200]


def _http(token: str) -> httpx2.AsyncClient:
    # The certificates of the system take longer to load than a call takes.
    return httpx2.AsyncClient(
        headers={"Authorization": f"Bearer {token}"}, timeout=120, trust_env=False, verify=False
    )


async def _grants(database: Path, nextcloud: str, passwords: Mapping[str, str]) -> list[str]:
    """Connect everybody as a sign-in does, and return an access token of each."""
    tokens: list[str] = []
    allowed = [*scopes.DEFAULT]
    async with RefreshTokenStorage(database, encryption_key=KEY) as storage:
        await storage.mcp_clients.register(_CLIENT, {"client_id": _CLIENT})
        for who, password in passwords.items():
            await storage.app_passwords.store(
                who, password, scopes=allowed, username=who, server=nextcloud, name=_CLIENT
            )
            session, code = new_token(), new_token()
            now = int(time.time())
            await storage.oauth_sessions.create(
                session,
                "http://127.0.0.1:1/callback",
                client_id=_CLIENT,
                expires_at=now + 600,
                resource=f"{_PUBLIC_URL}/mcp",
                redirect_uri_given=True,
                browser_id=new_token(),
            )
            await storage.oauth_sessions.update(
                session,
                user_id=who,
                granted_scopes=allowed,
                mcp_authorization_code=code,
                code_expires_at=now + 60,
            )
            issued = await storage.mcp_grants.redeem(code, client_id=_CLIENT)
            assert issued is not None
            tokens.append(issued.access_token)
    return tokens


def _peak(pid: int) -> int:
    """Return the peak memory of a running process in bytes (Linux)."""
    [line] = [
        line
        for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024
