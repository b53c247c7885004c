"""A traceback with the locals of our frames, as error trackers render it, shows no secret."""

from __future__ import annotations

import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nextcloud_mcp_server.auth import audit, browser_sessions, concern, secrets, validation
from nextcloud_mcp_server.auth import refresh_tokens as tokens
from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.key import Key
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.xaes import XAES
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import load_settings
from tests.secrecy import life
from tests.secrecy.planted import KEYS, PLANTED, found_in

PACKAGE: Final = f"{os.sep}nextcloud_mcp_server{os.sep}"

P: Final = PLANTED
LATE: Final = 2**32

#: Where a call fails: each of them is called with a secret, or below a frame that has one.
POINTS: Final[dict[str, tuple[Any, str]]] = {
    "sealing": (Key, "seal"),
    "the cipher": (XAES, "seal"),
    "the binding": (secrets, "binding"),
    "opening": (Keyring, "opened_decoded"),
    "the audit log": (concern, "record"),
    "the code of an entry": (audit, "_code"),
    "a check": (validation, "_sized"),
    "another check": (validation, "_encodable"),
    "random numbers": (os, "urandom"),
    "the clock": (Access, "now"),
    "a hash": (concern, "stored_id"),
    "the result": (tokens, "from_row"),
    "the transaction": (Access, "write"),
    "the key that encrypts": (Access, "primary_key"),
}

CALLS: Final[dict[str, Callable[[RefreshTokenStorage], Awaitable[object]]]] = {
    "token": lambda s: s.store_refresh_token("alice", P["refresh token"]),
    "password": lambda s: s.app_passwords.store("alice", P["app password"]),
    "client": lambda s: s.oauth_clients.store(
        "c", P["client secret"], redirect_uris=[], registration_access_token=P["registration token"]
    ),
    "flow": lambda s: s.login_flows.store("alice", P["poll token"], "https://x", expires_at=LATE),
    "session": lambda s: s.browser_sessions.create(P["session id"], "bob", expires_at=LATE),
    "get session": lambda s: s.browser_sessions.get(P["session id"]),
    "user of a session": lambda s: s.browser_sessions.get_user_id(P["session id"]),
    "delete session": lambda s: s.browser_sessions.delete(P["session id"]),
    "sign-in": lambda s: s.oauth_sessions.create(
        P["OAuth session id"][::-1],
        "https://x",
        expires_at=LATE,
        state=P["state"],
        nonce=P["nonce"],
        mcp_authorization_code=P["authorization code"],
        idp_access_token=P["idp access token"],
        idp_refresh_token=P["idp refresh token"],
    ),
    "step": lambda s: s.oauth_sessions.update(
        P["OAuth session id"],
        idp_access_token=P["idp access token"],
        idp_refresh_token=P["idp refresh token"],
        mcp_authorization_code=P["authorization code"],
    ),
    "by id": lambda s: s.oauth_sessions.get(P["OAuth session id"]),
    "by code": lambda s: s.oauth_sessions.get_by_code(P["authorization code"]),
    "by state": lambda s: s.oauth_sessions.get_by_state(P["state"]),
    "delete sign-in": lambda s: s.oauth_sessions.delete(P["OAuth session id"]),
    "profile": lambda s: s.store_user_profile("alice", {"name": P["profile"]}),
    "odd profile": lambda s: s.store_user_profile("alice", {"name": P["profile"], "odd": {1}}),
    "get token": lambda s: s.get_refresh_token("alice"),
    "get password": lambda s: s.app_passwords.get("alice"),
    "get client": lambda s: s.oauth_clients.get(),
    "get flow": lambda s: s.login_flows.get("alice"),
    "get profile": lambda s: s.get_user_profile("alice"),
}


class InjectedError(Exception):
    """The failure of a call."""


def locals_of(error: BaseException) -> str:
    """Return the locals of our frames, of an error and of what led to it."""
    shown, pending = [], [error]
    while pending:
        one = pending.pop()
        summary = traceback.TracebackException.from_exception(one, capture_locals=True)
        shown += [f"{f.name} {f.locals}" for f in summary.stack if PACKAGE in f.filename]
        shown.append(repr(one))
        pending += [e for e in (one.__cause__, one.__context__) if e is not None]
    return "\n".join(shown)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RefreshTokenStorage]:
    """A store with a row in each table."""
    async with RefreshTokenStorage(tmp_path / "tokens.db", encryption_key=KEYS["key"]) as opened:
        await life.fill(opened)
        yield opened


async def failed(
    store: RefreshTokenStorage, call: str, point: str, patch: pytest.MonkeyPatch
) -> BaseException | None:
    """Return the error of a call that fails at ``point``; None if it does not come there."""

    def fail(*_: object, **__: object) -> None:
        raise InjectedError

    owner, name = POINTS[point]
    with patch.context() as patched:
        patched.setattr(owner, name, fail)
        try:
            await CALLS[call](store)
        except (InjectedError, TokenStorageError) as error:
            return error
    return None


@pytest.mark.parametrize("point", POINTS)
async def test_no_frame_shows_a_secret(
    store: RefreshTokenStorage, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a call fails, the locals of our frames hold no planted secret."""
    errors = {call: await failed(store, call, point, monkeypatch) for call in CALLS}
    assert any(isinstance(error, InjectedError) for error in errors.values())
    shown = {call: found_in(locals_of(e).encode()) for call, e in errors.items() if e}
    assert {call: found for call, found in shown.items() if found} == {}


async def test_a_plain_parameter_is_found(
    store: RefreshTokenStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: a parameter that is not hidden is found in the locals."""
    monkeypatch.setattr(tokens, "hidden", lambda value: value)
    monkeypatch.setattr(browser_sessions, "hidden", lambda value: value)
    error = await failed(store, "token", "a check", monkeypatch)
    assert error is not None
    assert found_in(locals_of(error).encode()) == {"refresh token"}
    error = await failed(store, "session", "the transaction", monkeypatch)
    assert error is not None
    assert found_in(locals_of(error).encode()) == {"session id"}


def malformed() -> Iterator[str]:
    """Yield the key with what people do to it."""
    key = KEYS["key"]
    yield from (f"{key}x", f"'{key}'", key[:-1], f"{key};{KEYS['older key']}x", f"export K={key}")


async def started(path: Path, environment: dict[str, str]) -> None:
    """Open a database with the settings of an environment."""
    await RefreshTokenStorage(settings=load_settings(environment, database=path)).initialize()


@pytest.mark.parametrize("key", [*malformed(), KEYS["wrong key"]])
async def test_no_frame_of_a_start_shows_a_key(
    store: RefreshTokenStorage, tmp_path: Path, key: str
) -> None:
    """A wrong or malformed key, as an argument, a variable or a file, is in no local."""
    path = tmp_path / "tokens.db"
    file = tmp_path / "a.key"
    file.write_text(key)
    file.chmod(0o600)
    for name, value in (("TOKEN_ENCRYPTION_KEY", key), ("TOKEN_ENCRYPTION_KEY_FILE", str(file))):
        with pytest.raises(TokenStorageError) as caught:
            await started(path, {name: value})
        assert found_in(locals_of(caught.value).encode()) == set()
    with pytest.raises(TokenStorageError) as caught:
        await RefreshTokenStorage(path, encryption_key=[key]).initialize()
    assert found_in(locals_of(caught.value).encode()) == set()


async def test_results_are_plain_texts(store: RefreshTokenStorage) -> None:
    """What a caller gets is a text that he can send: not a hidden one."""
    token = await store.get_refresh_token("alice")
    assert token is not None
    assert type(token.token) is str
    assert f"{token.token}" == P["refresh token"]
    session = await store.oauth_sessions.get(P["OAuth session id"])
    assert session is not None
    for value in (session.state, session.nonce, session.session_id, session.idp_access_token):
        assert type(value) is str
