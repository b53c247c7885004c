"""No local of any frame of ours shows a secret, at any call that could fail."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server import migrations
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.audit.verify import verify
from nextcloud_mcp_server.maintenance.copy.run import Copy
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.settings import Settings, load_settings, store
from nextcloud_mcp_server.settings.nextcloud import account_settings, nextcloud_settings
from nextcloud_mcp_server.settings.process import listen_address, log_settings, status_token
from tests.secrecy.planted import KEYS, PLANTED, found_in
from tests.secrecy.test_frames import locals_of
from tests.secrecy.watched import Watch, watched
from tests.support.postgresql import Server

P: Final = PLANTED
LATE: Final = 2**32


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path or the URL of a database that a released version has filled."""
    if request.param == "sqlite":
        place = str(tmp_path / "tokens.db")
    else:
        server: Server = request.getfixturevalue("postgresql_server")
        _, place = server.schema()
    migrations.upgrade_database(place, "010")
    token = Fernet(KEYS["key"]).encrypt(P["refresh token"].encode())
    profile = f'{{"name": "{P["profile"]}"}}'
    session = [P[name] for name in ("OAuth session id", "idp access token", "idp refresh token")]
    session += [P[name] for name in ("state", "nonce", "authorization code")]
    with _connection(place) as (connection, mark):
        for table, row in (
            ("refresh_tokens", ["alice", token, 1, 1, profile]),
            ("oauth_sessions", [*session, "http://x", 1, LATE]),
            ("browser_sessions", [P["session id"], "alice", 1, LATE]),
        ):
            places = ", ".join([mark] * len(row))
            connection.execute(f"INSERT INTO {table} ({_COLUMNS[table]}) VALUES ({places})", row)
        connection.commit()
    return place


@contextmanager
def _connection(place: str) -> Iterator[tuple[Any, str]]:
    """Open a connection; yield it with the mark of a parameter."""
    if "://" in place:
        with psycopg.connect(place) as server:
            yield server, "%s"
    else:
        with closing(sqlite3.connect(place)) as file:
            yield file, "?"


_COLUMNS: Final = {
    "refresh_tokens": "user_id, encrypted_token, created_at, updated_at, user_profile",
    "oauth_sessions": "session_id, idp_access_token, idp_refresh_token, state, nonce, "
    "mcp_authorization_code, client_redirect_uri, created_at, expires_at",
    "browser_sessions": "session_id, user_id, created_at, expires_at",
}


async def _use(settings: Settings) -> None:
    """Read what a released version has stored, and store everything."""
    async with RefreshTokenStorage(settings=settings) as store:
        for read in (
            lambda: store.get_refresh_token("alice"),
            lambda: store.get_user_profile("alice"),
            lambda: store.oauth_sessions.get(P["OAuth session id"]),
            lambda: store.oauth_sessions.get_by_code(P["authorization code"]),
            lambda: store.oauth_sessions.get_by_state(P["state"]),
            lambda: store.oauth_sessions.update(P["OAuth session id"], granted_scopes=["a"]),
            lambda: store.browser_sessions.get(P["session id"]),
            lambda: store.browser_sessions.list_for_user("alice"),
        ):
            assert await read()
        await store.store_user_profile("alice", {"name": P["profile"]})
        await store.app_passwords.store("alice", P["app password"])
        await store.oauth_clients.store(
            "client",
            P["client secret"],
            redirect_uris=[],
            registration_access_token=P["registration token"],
        )
        await store.login_flows.store("alice", P["poll token"], "https://x", expires_at=LATE)


def _settings(place: str, *keys: str) -> Settings:
    given = {"TOKEN_ENCRYPTION_KEY": ";".join(keys)}
    return load_settings(given, database=place)


def test_a_life_from_a_released_version_and_back(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upgrade, use, census, rotation, retirement, audit, copy and downgrade show no secret."""
    older, key = KEYS["key"], KEYS["older key"]
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{key};{older}")
    with watched() as watch:
        migrations.upgrade_database(place)
        first, settings = _settings(place, older), _settings(place, key, older)
        # The copy of a database with values in plain text.
        Copy(first, _settings(str(tmp_path / "first.db"), older)).run()
        asyncio.run(_use(first))
        count_secrets(settings)
        introduce(settings)
        promote(settings, Keyring(key).fingerprints[0])
        rotate(settings)
        for fernet in (True, False):
            retire(settings, Keyring(older).fingerprints[0], fernet=fernet)
        verify(settings)
        Copy(settings, _settings(str(tmp_path / "copied.db"), key)).run()
        migrations.downgrade_database(place, "010")
    _nothing(watch)
    assert len(watch.examined) > 1000


#: What makes a row that cannot be read or changed.
DAMAGE: Final = {
    "a time": "UPDATE oauth_sessions SET expires_at = 'soon'",
    "a profile": "UPDATE refresh_tokens SET user_profile = '[' || user_profile || ']'",
    "a refusing trigger": "CREATE TRIGGER t BEFORE UPDATE ON oauth_sessions BEGIN "
    "SELECT RAISE(ABORT, 'no'); END",
    "another one": "CREATE TRIGGER t BEFORE UPDATE ON refresh_tokens BEGIN "
    "SELECT RAISE(ABORT, 'no'); END",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
def test_an_error_shows_nothing(damage: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails at a row of a released version has no secret in its traceback with locals."""
    key = KEYS["key"]
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", key)
    migrations.upgrade_database(place)
    settings = _settings(place, key)
    with _connection(place) as (connection, _):
        connection.execute(DAMAGE[damage])
        connection.commit()
    works: tuple[Callable[[], object], ...] = (
        lambda: asyncio.run(_use(settings)),
        lambda: rotate(settings),
        lambda: migrations.downgrade_database(place, "010"),
    )
    failures = 0
    for work in works:
        try:
            work()
        except TokenStorageError as error:
            failures += 1
            assert found_in(locals_of(error).encode()) == set()
    assert failures


#: Variables with a wrong value, beside those with secrets.
WRONG: Final = {
    "AUDIT_RETENTION_DAYS": "abc",
    "TOKEN_STORAGE_LOCK_TIMEOUT": "abc",
    "TOKEN_STORAGE_POOL_SIZE": "abc",
    "TOKEN_STORAGE_FILESYSTEM": "abc",
    "TOKEN_STORAGE_TRUSTED_OWNERS": "nobody here",
    "TOKEN_ENCRYPTION_KEY_FILE": KEYS["wrong key"],
    "TOKEN_STORAGE_DB": KEYS["wrong key"],
    "DATABASE_URL": f"postgresql://u:{PLANTED['PG password']}@h/d ",
    "STATUS_TOKEN": "short",
    "NEXTCLOUD_HOST": "nowhere",
    "READ_ONLY": "perhaps",
    "NEXTCLOUD_MCP_PORT": "abc",
    "NEXTCLOUD_MCP_LOG_LEVEL": "abc",
}


@pytest.mark.parametrize("variable", WRONG)
def test_no_frame_of_the_settings_shows_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong value of any variable shows neither that of another one, nor a secret in its own."""
    secret = {
        "TOKEN_ENCRYPTION_KEY": f"{KEYS['key']}; {KEYS['older key']}",
        "STATUS_TOKEN": P["refresh token"],
        "NEXTCLOUD_PASSWORD": P["app password"],
        "NEXTCLOUD_HOST": "https://x",
    }
    for name, value in (secret | {variable: WRONG[variable]}).items():
        monkeypatch.setenv(name, value)
    errors = []
    with watched() as watch:
        for read in (
            load_settings,
            status_token,
            log_settings,
            listen_address,
            account_settings,
            lambda: nextcloud_settings(listening=("h", 1)),
        ):
            try:
                read()
            except TokenStorageError as error:
                errors.append(error)
    assert errors or account_settings().wrong
    assert {name for e in errors for name in found_in(locals_of(e).encode())} == set()
    _nothing(watch)


def test_what_is_not_hidden_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the environment itself, in a frame of ours, is found."""
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEYS["key"])
    monkeypatch.setattr(store, "environment", dict)
    with watched() as watch:
        load_settings({**os.environ, "TOKEN_STORAGE_DB": "t.db"})
    assert ("load_settings", "environ", "key") in watch.shown


def _nothing(watch: Watch) -> None:
    assert "\n".join(sorted(map(str, watch.shown))) == ""
