"""Ids that are credentials: only their hash is stored, and the hash is no id."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.binding import hashed
from tests.auth.helpers import NOW
from tests.cli.places import rows
from tests.support.present import present

SESSION = "session-0123456789abcdef-1"
CODE = "code-0123456789abcdef-1"
STATE = "state-0123456789abcdef-1"
BROWSER = "browser-0123456789abcdef-1"


async def _fill(storage: RefreshTokenStorage) -> None:
    await storage.oauth_sessions.create(
        SESSION, "http://localhost/", expires_at=NOW, state=STATE, mcp_authorization_code=CODE
    )
    await storage.browser_sessions.create(BROWSER, "alice", expires_at=NOW + 60)


async def test_a_stolen_hash_is_no_id(path: Path, storage: RefreshTokenStorage) -> None:
    """What is stored finds nothing, changes nothing and deletes nothing."""
    await _fill(storage)
    [stolen] = rows(path, "SELECT session_id, mcp_authorization_code, state FROM oauth_sessions")
    [(browser,)] = rows(path, "SELECT session_id FROM browser_sessions")
    assert (*stolen, browser) == tuple(map(hashed, (SESSION, CODE, STATE, BROWSER)))
    oauth, browsers = storage.oauth_sessions, storage.browser_sessions
    for text in (*stolen, browser):
        assert type(text) is str
        assert await oauth.get(text) is None
        assert await oauth.get_by_code(text) is None
        assert await oauth.get_by_state(text) is None
        assert await oauth.update(text, user_id="mallory") is False
        assert await oauth.delete(text) is False
        assert await browsers.get(text) is None
        assert await browsers.get_user_id(text) is None
        assert await browsers.delete(text) is False
    assert await oauth.get(SESSION) is not None
    assert await browsers.get(BROWSER) is not None


async def test_the_hash_of_a_result_finds_its_row(storage: RefreshTokenStorage) -> None:
    """A code is redeemed once: the session that was found by it is deleted by its own id."""
    await _fill(storage)
    oauth = storage.oauth_sessions
    session = present(await oauth.get_by_code(CODE))
    assert session.session_id != SESSION
    assert await oauth.update(session.session_id, user_id="alice") is True
    assert present(await oauth.get(session.session_id)).user_id == "alice"
    again = present(await oauth.get(SESSION))
    assert present(await oauth.get_by_code(present(again.mcp_authorization_code))) is not None
    assert await oauth.delete(session.session_id) is True
    assert await oauth.delete(session.session_id) is False
    [browser] = await storage.browser_sessions.list_for_user("alice")
    assert await storage.browser_sessions.delete(browser.session_id) is True
    assert await storage.browser_sessions.get(BROWSER) is None


async def test_a_code_is_redeemed_by_one(place: str, storage: RefreshTokenStorage) -> None:
    """Of many that redeem a code at once, exactly one deletes its session."""
    oauth = storage.oauth_sessions
    for number in range(5):
        code = f"{CODE}-{number}"
        await oauth.create(
            f"{SESSION}-{number}", "http://x/", expires_at=NOW, mcp_authorization_code=code
        )
        found = await asyncio.gather(*(oauth.get_by_code(code) for _ in range(16)))
        wins = await asyncio.gather(*(oauth.delete(present(one).session_id) for one in found))
        assert sum(wins) == 1


async def test_no_id_is_in_the_file(path: Path, storage: RefreshTokenStorage) -> None:
    """Neither the database nor its WAL has an id, a code or a state; a user id is there."""
    await _fill(storage)
    content = b"".join(file.read_bytes() for file in (path, path.with_name(f"{path.name}-wal")))
    assert b"alice" in content
    for text in (SESSION, CODE, STATE, BROWSER):
        assert text.encode() not in content
