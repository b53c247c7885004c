"""An id that is asked with does not reach a server of PostgreSQL, which may log it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import product

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.settings import Settings
from tests.support.contents import KEY, encrypted
from tests.support.postgresql import QUICK, Server, running

LATER = 4_000_000_000

#: Every statement with all of its parameters.
_TALKATIVE = {**QUICK, "log_statement": "all", "log_parameter_max_length": "-1"}

Use = Callable[[RefreshTokenStorage, str], Awaitable[object]]


async def _create(storage: RefreshTokenStorage, text: str) -> None:
    await storage.oauth_sessions.create(
        text, "http://x", expires_at=LATER, state=text, mcp_authorization_code=text, browser_id=text
    )
    await storage.browser_sessions.create(text, "alice", expires_at=LATER)


#: Each use of an id, a code or a state. Those that end something come last.
USES: dict[str, Use] = {
    "session": lambda s, text: s.oauth_sessions.get(text),
    "code": lambda s, text: s.oauth_sessions.get_by_code(text),
    "state": lambda s, text: s.oauth_sessions.get_by_state(text),
    "update": lambda s, text: s.oauth_sessions.update(text, user_id="alice"),
    "issue": lambda s, text: s.oauth_sessions.issue_code(text, text, code_expires_at=LATER),
    "browser": lambda s, text: s.browser_sessions.get(text),
    "user of browser": lambda s, text: s.browser_sessions.get_user_id(text),
    "token": lambda s, text: s.mcp_tokens.find(text),
    "refresh": lambda s, text: s.mcp_grants.refresh(text, client_id="c"),
    "redeem": lambda s, text: s.mcp_grants.redeem(text, client_id="c"),
    "delete browser": lambda s, text: s.browser_sessions.delete(text),
    "delete": lambda s, text: s.oauth_sessions.delete(text),
}
#: Those that never had another form than a hash.
HASHES = {"token", "refresh", "redeem"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that logs every statement."""
    with running(settings=_TALKATIVE) as server:
        yield server


def _logged(server: Server, text: str) -> int:
    return (server.folder / "log").read_bytes().count(text.encode())


@pytest.fixture(params=["new", "upgraded", "retired"])
def kind(request: pytest.FixtureRequest) -> str:
    """A new database, one that accepts what released versions stored, and one that did."""
    return str(request.param)


@pytest.fixture
async def storage(server: Server, kind: str) -> AsyncIterator[RefreshTokenStorage]:
    """A store in which a secret was stored."""
    name, url = server.schema_at_head()
    if kind != "new":
        token = encrypted("released").hex()
        server.execute(
            f"INSERT INTO {name}.refresh_tokens (user_id, encrypted_token, created_at, updated_at)"
            f" VALUES ('old', '\\x{token}', 1, 1)"
        )
    async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "a-refresh-token")
    if kind == "retired":
        settings = Settings(ServerUrl(url), (KEY,))
        rotate(settings)
        retire(settings, Keyring(KEY).fingerprints[0], fernet=True)
    async with RefreshTokenStorage(url, encryption_key=KEY) as storage:
        yield storage


async def test_no_id_is_sent(server: Server, storage: RefreshTokenStorage, kind: str) -> None:
    """Not for one that is there; for one that is not, only while it could be stored in plain."""
    found = {}
    for (name, use), there in product(USES.items(), (True, False)):
        text = f"PLANTED-{secrets.token_urlsafe(24)}"
        if there:
            await _create(storage, text)
        await use(storage, text)
        found[name, there] = _logged(server, text)
    sent = {what for what, number in found.items() if number}
    expected = {(name, False) for name in USES.keys() - HASHES} if kind == "upgraded" else set()
    assert sent == expected
