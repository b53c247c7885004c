"""A secret opens in its own row only: every swap, every copy and every changed bound value."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.schema.secrets import SECRETS
from tests.auth.helpers import NOW, tamper
from tests.support.contents import KEY
from tests.support.errors import refuses
from tests.support.keys import retire_released

USERS = ("alice", "bob")
SESSIONS = {user: f"session-0123456789-of-{user}" for user in USERS}
PROFILE = {"sub": "x"}
#: The poll token of a sign-in. Two tables have a column of its name.
LOGIN = "login"

#: A secret column of a row: the table, the column and the user.
Cell = tuple[str, str, str]


def _key(table: str, user: str) -> tuple[str, Any]:
    """Return the column and the value with which a row is found; the client is one row."""
    if table == "oauth_sessions":
        return "user_id", user
    return ("id", 1) if table == "oauth_clients" else ("user_id", user)


async def _fill(storage: RefreshTokenStorage) -> None:
    for user in USERS:
        await storage.store_refresh_token(user, f"token of {user}", token_audience="nextcloud")
        await storage.store_user_profile(user, PROFILE)
        await storage.app_passwords.store(user, f"password of {user}", server="https://a.example")
        await storage.login_flows.store(
            user, f"poll token of {user}", "https://a.example/poll", expires_at=NOW
        )
        await storage.oauth_sessions.create(
            SESSIONS[user],
            "http://localhost/",
            expires_at=NOW,
            user_id=user,
            state=f"state of {user}",
            nonce=f"nonce of {user}",
            idp_access_token=f"access token of {user}",
            idp_refresh_token=f"idp refresh token of {user}",
        )
        await storage.oauth_sessions.update(
            SESSIONS[user], poll_endpoint="https://a.example/poll", poll_token=f"login of {user}"
        )
    await storage.oauth_clients.store(
        "client",
        "secret",
        redirect_uris=[],
        registration_access_token="registration",
        registration_client_uri="https://idp.example/register/client",
    )


#: How each secret is read.
READ: dict[str, Callable[[RefreshTokenStorage, str], Awaitable[object]]] = {
    "encrypted_token": lambda s, user: s.get_refresh_token(user),
    "user_profile": lambda s, user: s.get_user_profile(user),
    "encrypted_password": lambda s, user: s.app_passwords.get(user),
    "encrypted_poll_token": lambda s, user: s.login_flows.get(user),
    LOGIN: lambda s, user: s.oauth_sessions.get(SESSIONS[user]),
    "encrypted_client_secret": lambda s, _: s.oauth_clients.get(),
    "encrypted_registration_access_token": lambda s, _: s.oauth_clients.get(),
    **dict.fromkeys(
        ("idp_access_token", "idp_refresh_token", "nonce", "encrypted_state"),
        lambda s, user: s.oauth_sessions.get(SESSIONS[user]),
    ),
}


def _cells() -> list[Cell]:
    return [
        (secret.table, secret.column, user)
        for secret in SECRETS
        for user in (USERS if secret.table != "oauth_clients" else USERS[:1])
    ]


def _texts(path: Path) -> dict[Cell, bytes]:
    with closing(sqlite3.connect(path)) as connection:
        texts = {}
        for table, column, user in _cells():
            name, value = _key(table, user)
            query = f"SELECT CAST({column} AS BLOB) FROM {table} WHERE {name} = ?"
            [(texts[table, column, user],)] = connection.execute(query, (value,))
        return texts


def _put(path: Path, cell: Cell, text: bytes) -> None:
    table, column, user = cell
    name, value = _key(table, user)
    stored: Any = text.decode() if column in {"user_profile", "nonce"} | _IDP else text
    tamper(path, f"UPDATE {table} SET {column} = ? WHERE {name} = ?", (stored, value))


_IDP = {"idp_access_token", "idp_refresh_token"}


def _reader(cell: Cell) -> Callable[[RefreshTokenStorage, str], Awaitable[object]]:
    # Two tables have a column of this name.
    column = "nonce" if cell[0] == "oauth_sessions" else cell[1]
    return READ[column]


async def _opens(storage: RefreshTokenStorage, cell: Cell) -> bool:
    try:
        await _reader(cell)(storage, cell[2])
    except TokenStorageError as error:
        assert error.code == "undecryptable", (cell, error)
        return False
    return True


@pytest.mark.parametrize("upgraded", [False, True], ids=["new", "released key retired"])
async def test_no_ciphertext_opens_in_another_place(
    upgraded: bool, path: Path, storage: RefreshTokenStorage
) -> None:
    """Each ciphertext of each row and column is copied into each other one: none opens."""
    if upgraded:
        token = Fernet(KEY).encrypt(b"released")
        tamper(
            path,
            "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
            "VALUES ('old', ?, 1, 1)",
            (token,),
        )
    await _fill(storage)
    if upgraded:
        assert await storage.get_refresh_token("old") is not None
        retire_released(path)
    texts = _texts(path)
    assert len(texts) == 20
    assert all([await _opens(storage, cell) for cell in texts])
    opened = []
    for target, source in permutations(texts, 2):
        _put(path, target, texts[source])
        if await _opens(storage, target):
            opened.append((target, source))
        _put(path, target, texts[target])
    assert opened == []
    assert all([await _opens(storage, cell) for cell in texts])


async def test_a_swapped_fernet_text_opens_while_it_is_accepted(
    path: Path, storage: RefreshTokenStorage
) -> None:
    """The control: the same swap of what released versions stored gives another user's token."""
    for user in USERS:
        tamper(
            path,
            "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
            "VALUES (?, ?, 1, 1)",
            (user, Fernet(KEY).encrypt(f"token of {user}".encode())),
        )
    text = _texts_of_tokens(path)
    _put(path, ("refresh_tokens", "encrypted_token", "alice"), text["bob"])
    token = await storage.get_refresh_token("alice")
    assert token is not None
    assert token.token == "token of bob"


def _texts_of_tokens(path: Path) -> dict[str, bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT user_id, encrypted_token FROM refresh_tokens"))


@pytest.mark.parametrize(
    ("change", "secrets"),
    [
        ("refresh_tokens SET token_audience = 'mcp-server'", ["encrypted_token"]),
        ("refresh_tokens SET token_audience = NULL", ["encrypted_token"]),
        ("app_passwords SET server = 'https://mallory.example'", ["encrypted_password"]),
        ("app_passwords SET server = NULL", ["encrypted_password"]),
        ("login_flow_sessions SET poll_endpoint = 'https://m.example'", ["encrypted_poll_token"]),
        (
            "oauth_clients SET client_id = 'another'",
            ["encrypted_client_secret", "encrypted_registration_access_token"],
        ),
        (
            "oauth_clients SET registration_client_uri = 'https://mallory.example'",
            ["encrypted_registration_access_token"],
        ),
        (
            "oauth_clients SET registration_client_uri = NULL",
            ["encrypted_registration_access_token"],
        ),
        ("oauth_sessions SET poll_endpoint = 'https://m.example'", [LOGIN]),
    ],
)
async def test_a_value_beside_a_secret_cannot_be_changed(
    change: str, secrets: list[str], path: Path, storage: RefreshTokenStorage
) -> None:
    """The audience, the server, the client and the places to send it belong to their secret."""
    await _fill(storage)
    for secret in secrets:
        assert await READ[secret](storage, "alice") is not None
    tamper(path, f"UPDATE {change}")
    for secret in secrets:
        with refuses("undecryptable", "was changed, or was encrypted for another row"):
            await READ[secret](storage, "alice")


@pytest.mark.parametrize("table", ["refresh_tokens", "app_passwords", "login_flow_sessions"])
async def test_a_row_cannot_be_given_to_another_user(
    table: str, path: Path, storage: RefreshTokenStorage
) -> None:
    """With another key of the row its secrets do not open."""
    await _fill(storage)
    tamper(path, f"DELETE FROM {table} WHERE user_id = 'bob'")
    tamper(path, f"UPDATE {table} SET user_id = 'bob'")
    for secret in SECRETS:
        if secret.table == table:
            with refuses("undecryptable"):
                await READ[secret.column](storage, "bob")
