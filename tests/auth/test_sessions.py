"""OAuth sessions, browser sessions and the audit log."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth.audit import AuditEntry
from nextcloud_mcp_server.auth.browser_sessions import BrowserSession
from nextcloud_mcp_server.auth.oauth_sessions import OAuthSession
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed
from tests.auth.helpers import NOW, Clock, events, opened, tamper
from tests.cli.places import rows
from tests.support.errors import refuses
from tests.support.present import present

FIRST, SECOND, THIRD = (f"session-0123456789abcdef-{n}" for n in (1, 2, 3))
CODE = "code-0123456789abcdef-1"
BROWSER = "browser-0123456789abcdef-1"

EVERYTHING: dict[str, Any] = {
    "expires_at": NOW + 600,
    "client_id": "claude-desktop",
    "state": "st-1",
    "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
    "code_challenge_method": "S256",
    "mcp_authorization_code": CODE,
    "idp_access_token": "at-1",
    "idp_refresh_token": "rt-1",
    "user_id": "alice",
    "flow_type": "flow1",
    "requested_scopes": ["openid", "notes:read"],
    "granted_scopes": ["openid"],
    "is_provisioning": True,
    "nonce": "n-1",
}
SESSION = OAuthSession(
    session_id=FIRST,
    client_redirect_uri="http://localhost:1/cb?ü=1",
    created_at=NOW,
    **{**EVERYTHING, "requested_scopes": ("openid", "notes:read"), "granted_scopes": ("openid",)},
)


async def create(storage: RefreshTokenStorage, session_id: str, **columns: Any) -> None:
    """Create a session with few columns."""
    await storage.oauth_sessions.create(
        session_id, "http://localhost/cb", **{"expires_at": NOW + 60, **columns}
    )


async def test_an_oauth_session_comes_back_by_each_key(storage: RefreshTokenStorage) -> None:
    """All 17 columns are written, and read by id, by code and by state."""
    sessions = storage.oauth_sessions
    await sessions.create(FIRST, "http://localhost:1/cb?ü=1", **EVERYTHING)
    # Only the hash of the id and of the code is stored: the caller has the one it asked with.
    unknown: dict[str, Any] = {"session_id": hashed(FIRST), "mcp_authorization_code": hashed(CODE)}
    for found, asked in (
        (await sessions.get(FIRST), {"session_id": FIRST}),
        (await sessions.get_by_code(CODE), {"mcp_authorization_code": CODE}),
        (await sessions.get_by_state("st-1"), {}),
    ):
        assert found == dataclasses.replace(SESSION, **{**unknown, **asked})
    assert await sessions.get(SECOND) is None
    assert await sessions.get_by_code("code-2") is None
    assert await sessions.get_by_state("st-2") is None


async def test_an_oauth_session_is_written_as_releases_write_it(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """Scopes are separated by spaces, the flag is 0 or 1; secrets are encrypted, ids are hashed."""
    await storage.oauth_sessions.create(FIRST, "http://localhost/cb", **EVERYTHING)
    await create(storage, SECOND)
    columns = (
        "session_id, state, mcp_authorization_code, requested_scopes, granted_scopes, "
        "is_provisioning, user_id, flow_type"
    )
    assert rows(path, f"SELECT {columns} FROM oauth_sessions ORDER BY rowid") == [
        (
            *(hashed(FIRST), hashed("st-1"), hashed(CODE)),
            *("openid notes:read", "openid", 1, "alice", "flow1"),
        ),
        (hashed(SECOND), None, None, None, None, 0, None, "hybrid"),
    ]
    secrets = {
        "idp_access_token": "at-1",
        "idp_refresh_token": "rt-1",
        "nonce": "n-1",
        "encrypted_state": "st-1",
    }
    for column, plaintext in secrets.items():
        assert opened(path, "oauth_sessions", column) == [plaintext]
        assert rows(path, f"SELECT {column} FROM oauth_sessions ORDER BY rowid")[1] == (None,)


async def test_an_oauth_session_is_updated_step_by_step(storage: RefreshTokenStorage) -> None:
    """A step stores its results and keeps the other columns."""
    sessions = storage.oauth_sessions
    await create(storage, FIRST, requested_scopes=["openid"])
    assert await sessions.update(FIRST, user_id="alice", idp_access_token="at-1")
    assert await sessions.update(FIRST, idp_refresh_token="rt-1", granted_scopes=[])
    assert await sessions.update(FIRST, mcp_authorization_code=CODE)
    session = present(await sessions.get(FIRST))
    assert dataclasses.astuple(session)[6:10] == (hashed(CODE), "at-1", "rt-1", "alice")
    assert (session.requested_scopes, session.granted_scopes) == (("openid",), ())
    assert await sessions.update(SECOND, user_id="bob") is False
    assert await events(storage) == [
        ("create_oauth_session", "system"),
        ("update_oauth_session", "alice"),
        ("update_oauth_session", "alice"),
        ("update_oauth_session", "alice"),
    ]


async def test_the_newest_session_of_a_state_is_returned(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """A client may use a state twice; the later session is returned."""
    await create(storage, SECOND, state="same")
    clock.time += 1
    await create(storage, FIRST, state="same")
    session = present(await storage.oauth_sessions.get_by_state("same"))
    assert session.session_id == hashed(FIRST)


async def test_codes_and_ids_are_unique(storage: RefreshTokenStorage, path: Path) -> None:
    """A second session with the same id or code is a conflict and is not stored."""
    await create(storage, FIRST, mcp_authorization_code=CODE)
    await create(storage, SECOND)
    for attempt in (
        create(storage, FIRST),
        create(storage, THIRD, mcp_authorization_code=CODE),
        storage.oauth_sessions.update(SECOND, mcp_authorization_code=CODE),
    ):
        with refuses("conflict") as caught:
            await attempt
        assert CODE not in str(caught.value)
    assert rows(path, "SELECT count(*) FROM oauth_sessions") == [(2,)]
    assert len(await events(storage)) == 2


async def test_oauth_sessions_are_deleted(storage: RefreshTokenStorage) -> None:
    """One session, or all expired ones, are deleted, and each deletion is recorded."""
    sessions = storage.oauth_sessions
    for name, expires_at in {"a": 0, "b": NOW, "c": NOW + 1, "d": NOW + 1}.items():
        await create(storage, FIRST + name, expires_at=expires_at, user_id=f"user-{name}")
    expired = present(await sessions.get(FIRST + "b"))
    assert expired.is_expired
    assert await sessions.delete(FIRST + "c") is True
    assert await sessions.delete(FIRST + "c") is False
    assert await sessions.delete_expired() == 2
    assert [name for name in "abcd" if await sessions.get(FIRST + name)] == ["d"]
    ended = (await events(storage))[4:]
    # The expired ones in the order of their hashes.
    assert (ended[0], sorted(ended[1:])) == (
        ("delete_oauth_session", "user-c"),
        [("delete_expired_oauth_session", "user-a"), ("delete_expired_oauth_session", "user-b")],
    )


async def test_browser_sessions(storage: RefreshTokenStorage, clock: Clock) -> None:
    """A session id gives its user until it expires."""
    sessions = storage.browser_sessions
    await sessions.create(BROWSER, "alice", expires_at=NOW + 60)
    assert await sessions.get(BROWSER) == BrowserSession(BROWSER, "alice", NOW, NOW + 60)
    assert await sessions.get_user_id(BROWSER) == "alice"
    assert await sessions.get_user_id("bs-0002") is None
    clock.time += 60
    assert await sessions.get_user_id(BROWSER) is None
    kept = present(await sessions.get(BROWSER))
    assert kept.is_expired


async def test_a_browser_session_id_is_unique(storage: RefreshTokenStorage) -> None:
    """A second session with the same id is a conflict, and the first one stays."""
    await storage.browser_sessions.create(BROWSER, "alice", expires_at=NOW + 60)
    with refuses("conflict"):
        await storage.browser_sessions.create(BROWSER, "mallory", expires_at=NOW + 60)
    assert await storage.browser_sessions.get_user_id(BROWSER) == "alice"


async def test_browser_sessions_are_deleted(storage: RefreshTokenStorage) -> None:
    """One, all of a user, or all expired ones; a list and the log contain the hash of the id."""
    sessions = storage.browser_sessions
    for name, user, expires_at in (
        ("a", "alice", NOW + 1),
        ("b", "alice", NOW + 1),
        ("c", "alice", NOW + 1),
        ("d", "bob", NOW),
        ("e", "bob", NOW + 1),
    ):
        await sessions.create(BROWSER + name, user, expires_at=expires_at)
    stored = {name: hashed(BROWSER + name) for name in "abcde"}
    assert await sessions.delete(BROWSER + "a") is True
    assert await sessions.delete(BROWSER + "a") is False
    assert [s.session_id for s in await sessions.list_for_user("alice")] == sorted(
        [stored["b"], stored["c"]]
    )
    assert await sessions.delete_for_user("alice") == 2
    assert await sessions.delete_for_user("alice") == 0
    assert await sessions.delete_expired() == 1
    assert await sessions.get_user_id(BROWSER + "e") == "bob"
    ended = (await storage.audit.list())[3::-1]
    deleted = ("delete_browser_session", "alice", "browser_session")
    listed = [(e.event, e.user_id, e.resource_type, e.resource_id) for e in ended]
    assert (listed[0], sorted(listed[1:3]), listed[3]) == (
        (*deleted, stored["a"]),
        sorted((*deleted, stored[name]) for name in "bc"),
        ("delete_expired_browser_session", "bob", "browser_session", stored["d"]),
    )


async def test_the_audit_log_records_who_when_how_and_where(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """An entry has every column, also one that a caller adds."""
    await storage.store_refresh_token("alice", "rt-1")
    clock.time += 1
    await storage.audit.add(
        "token_refresh", "alice", resource_type="note", resource_id="42", auth_method="oauth"
    )
    host = socket.gethostname()
    assert await storage.audit.list() == [
        AuditEntry(2, NOW + 1, "token_refresh", "alice", "note", "42", "oauth", host),
        AuditEntry(1, NOW, "store_refresh_token", "alice", None, None, "offline_access", host),
    ]


async def test_the_audit_log_is_listed_newest_first(
    storage: RefreshTokenStorage, clock: Clock
) -> None:
    """The list can be limited by user, time and number."""
    for number, user in enumerate(["alice", "bob", "alice", "bob", "alice"]):
        await storage.audit.add(f"event-{number}", user)
        clock.time += number % 2
    assert await listed(storage) == [4, 3, 2, 1, 0]
    assert await listed(storage, "alice") == [4, 2, 0]
    assert await listed(storage, "alice", limit=2) == [4, 2]
    assert await listed(storage, since=NOW + 1) == [4, 3, 2]
    assert await listed(storage, "bob", since=NOW + 1, limit=1) == [3]
    assert await listed(storage, "nobody") == []


async def listed(
    storage: RefreshTokenStorage, user: str | None = None, *, since: int = 0, limit: int = 100
) -> list[int]:
    """Return the numbers of the entries in the order of the list."""
    entries = await storage.audit.list(user, since=since, limit=limit)
    return [int(entry.event.removeprefix("event-")) for entry in entries]


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, 1.5])
async def test_a_listing_has_a_limit(storage: RefreshTokenStorage, limit: Any) -> None:
    """1 to 10,000 entries at once."""
    with refuses("bad-input"):
        await storage.audit.list(limit=limit)


async def test_a_broken_session_raises_without_its_id(
    storage: RefreshTokenStorage, path: Path
) -> None:
    """A time that is not a number is unreadable; the message does not contain the id."""
    await create(storage, "oauth-session-id-0123456789")
    await storage.browser_sessions.create("browser-session-id-0123456789", "alice", expires_at=NOW)
    for table, read, name in (
        ("oauth_sessions", storage.oauth_sessions.get, "oauth-session-id-0123456789"),
        ("browser_sessions", storage.browser_sessions.get, "browser-session-id-0123456789"),
    ):
        tamper(path, f"UPDATE {table} SET expires_at = 'soon'")
        with refuses("unreadable", match=rf"^{table}\.expires_at of ") as caught:
            await read(name)
        assert name not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("expires_at", None),
        ("expires_at", 2**63),
        ("state", ""),
        ("nonce", "a\x00"),
        ("user_id", "x" * 256),
        ("flow_type", "flow9"),
        ("requested_scopes", ["a b"]),
        ("granted_scopes", "openid"),
        ("is_provisioning", 1),
        ("idp_access_token", ""),
        ("idp_refresh_token", "x" * (2**20 + 1)),
        ("mcp_authorization_code", ""),
        ("mcp_authorization_code", "x" * 21),
    ],
)
async def test_bad_input_is_refused(storage: RefreshTokenStorage, column: str, value: Any) -> None:
    """An invalid value is refused before anything is written or recorded."""
    with refuses("bad-input"):
        await create(storage, FIRST, **{column: value})
    assert await storage.oauth_sessions.get(FIRST) is None
    assert await events(storage) == []
