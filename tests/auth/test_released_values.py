"""What released versions have stored is accepted until their last key is retired, never before."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.driver import DriverConnection
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.settings import Settings
from tests.auth.helpers import NOW, tamper
from tests.cli.places import rows
from tests.support.contents import KEY, encrypted
from tests.support.errors import refuses
from tests.support.keys import retire_released

SESSION, BROWSER = "session-0123456789abcdef", "browser-0123456789abcdef"

#: How each value of a released version is stored.
PLANTED: dict[str, tuple[object, ...]] = {
    "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at, user_profile, "
    "profile_cached_at) VALUES ('old', ?, 1, 1, ?, 1)": (
        encrypted("rt-old"),
        json.dumps({"sub": "old"}),
    ),
    "INSERT INTO app_passwords (user_id, encrypted_password, created_at, updated_at) "
    "VALUES ('old', ?, 1, 1)": (encrypted("ap-old"),),
    "INSERT INTO login_flow_sessions (user_id, encrypted_poll_token, poll_endpoint, created_at, "
    "expires_at) VALUES ('old', ?, 'https://x', 1, 1)": (encrypted("pt-old"),),
    "INSERT INTO oauth_sessions (session_id, client_redirect_uri, created_at, expires_at, state, "
    "mcp_authorization_code, idp_access_token) "
    "VALUES (?, 'http://x', 1, 4000000000, 'state', 'code', 'at-old')": (SESSION,),
    "INSERT INTO browser_sessions VALUES (?, 'old', 1, 4000000000)": (BROWSER,),
}

Read = Callable[[RefreshTokenStorage], Awaitable[object]]

READS: dict[str, Read] = {
    "token": lambda s: s.get_refresh_token("old"),
    "profile": lambda s: s.get_user_profile("old"),
    "password": lambda s: s.app_passwords.get("old"),
    "flow": lambda s: s.login_flows.get("old"),
    "session": lambda s: s.oauth_sessions.get(SESSION),
    "session by code": lambda s: s.oauth_sessions.get_by_code("code"),
    "session by state": lambda s: s.oauth_sessions.get_by_state("state"),
    "browser": lambda s: s.browser_sessions.get(BROWSER),
    "user of browser": lambda s: s.browser_sessions.get_user_id(BROWSER),
}
#: These are not found; the others are undecryptable.
IDS = {"session", "session by code", "session by state", "browser", "user of browser"}


async def _accepted(storage: RefreshTokenStorage) -> dict[str, bool]:
    answers = {}
    for name, read in READS.items():
        try:
            answers[name] = await read(storage) is not None
        except TokenStorageError as error:
            assert error.code == "undecryptable", name
            assert name not in IDS
            answers[name] = False
    return answers


def _plant(path: Path) -> None:
    for sql, parameters in PLANTED.items():
        tamper(path, sql, parameters)


@pytest.mark.parametrize("how", ["planted first", "planted later", "keys deleted"])
async def test_an_upgraded_database_accepts_them_until_the_key_is_retired(
    how: str, path: Path
) -> None:
    """Before and after the first new secret; a new database never does."""
    upgraded = how == "planted first"
    if upgraded:
        _plant(path)
    async with RefreshTokenStorage(path, encryption_key=KEY, clock=lambda: NOW) as storage:
        if upgraded:
            assert all((await _accepted(storage)).values())
            assert rows(path, "SELECT count(*) FROM keys") == [(0,)]
        await storage.store_refresh_token("new", "rt-new")
        kinds = rows(path, "SELECT kind, state FROM keys ORDER BY kind")
        assert kinds == [("fernet", "former")] * upgraded + [("v2", "primary")]
        if upgraded:
            assert all((await _accepted(storage)).values())
            retire_released(path)
        else:
            _plant(path)
        if how == "keys deleted":
            # Who deletes the keys of a database with new texts does not get old ones accepted.
            tamper(path, "DELETE FROM keys")
        assert not any((await _accepted(storage)).values())
        assert await storage.get_refresh_token("new") is not None
        assert await storage.browser_sessions.list_for_user("old") == []
        # Another store does not make them acceptable.
        await storage.store_refresh_token("newer", "rt-newer")
        assert not any((await _accepted(storage)).values())


async def test_a_refused_session_cannot_be_changed(path: Path) -> None:
    """A planted session in plain text gets no user."""
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        await storage.store_refresh_token("new", "rt-new")
        _plant(path)
        assert await storage.oauth_sessions.update(SESSION, user_id="mallory") is False
        assert rows(path, "SELECT user_id FROM oauth_sessions") == [(None,)]


@pytest.mark.parametrize("seen", ["a new secret", "nothing"])
async def test_an_emptied_table_is_noticed_by_an_open_store(
    seen: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has accepted old values; others have stored, rotated and retired since then."""
    tokens = next(iter(PLANTED))
    tamper(path, tokens, PLANTED[tokens])
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        assert await storage.get_refresh_token("old") is not None
        async with RefreshTokenStorage(path, encryption_key=KEY) as other:
            await other.store_refresh_token("new", "rt-new")
        settings = Settings(path, (KEY,))
        rotate(settings)
        retire(settings, Keyring(KEY).fingerprints[0], fernet=True)
        if seen == "a new secret":
            assert await storage.get_refresh_token("new") is not None
        else:
            # A search counts for a while only.
            monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 3600)
        tamper(path, "DELETE FROM keys", ())
        tamper(path, "DELETE FROM refresh_tokens WHERE user_id = 'old'", ())
        tamper(path, tokens, PLANTED[tokens])
        with refuses("undecryptable"):
            await storage.get_refresh_token("old")


async def test_a_first_secret_that_is_rolled_back_registers_nothing(path: Path) -> None:
    """A trigger refuses it: what released versions have stored is accepted as before."""
    _plant(path)
    tamper(
        path, "CREATE TRIGGER no BEFORE UPDATE ON oauth_sessions BEGIN SELECT raise(ABORT, ''); END"
    )
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        with refuses("ignored"):
            await storage.oauth_sessions.update(SESSION, idp_access_token="at-new")
        assert rows(path, "SELECT * FROM keys") == []
        assert all((await _accepted(storage)).values())


async def test_the_rows_are_searched_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the first new secret a read does not search all rows for one, but the first read."""
    _plant(path)
    searched = []
    first = DriverConnection.first

    def counted(self: DriverConnection, statement: Any, *arguments: Any) -> Any:
        searched.append(statement is key_registry._ANY_V2)
        return first(self, statement, *arguments)

    monkeypatch.setattr(DriverConnection, "first", counted)
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        for _ in range(3):
            assert await storage.get_refresh_token("old") is not None
        assert searched.count(True) == 1
