"""A program that stores every planted secret, fails in many ways, and prints what it can.

``python -m tests.secrecy.life DATABASE`` with every library's log at DEBUG.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from tests.secrecy.planted import KEYS, PLANTED

out = partial(print, file=sys.stdout)

P: Final = PLANTED
LATE: Final = 2**32


async def fill(store: RefreshTokenStorage) -> None:
    """Store each of the planted secrets."""
    await store.store_refresh_token("alice", P["refresh token"], scopes=["notes.read"])
    await store.store_user_profile("alice", {"name": P["profile"]})
    await store.app_passwords.store("alice", P["app password"], username="alice@example.org")
    await store.oauth_clients.store(
        "client",
        P["client secret"],
        redirect_uris=["https://x/cb"],
        registration_access_token=P["registration token"],
    )
    await store.login_flows.store("alice", P["poll token"], "https://x/poll", expires_at=LATE)
    await store.browser_sessions.create(P["session id"], "alice", expires_at=LATE)
    await store.oauth_sessions.create(
        P["OAuth session id"],
        "https://x/cb",
        expires_at=LATE,
        state=P["state"],
        nonce=P["nonce"],
        mcp_authorization_code=P["authorization code"],
        idp_access_token=P["idp access token"],
        idp_refresh_token=P["idp refresh token"],
    )


async def read(store: RefreshTokenStorage) -> list[Any]:
    """Read everything back."""
    return [
        await store.get_refresh_token("alice"),
        await store.app_passwords.get("alice"),
        await store.oauth_clients.get(),
        await store.login_flows.get("alice"),
        await store.browser_sessions.get(P["session id"]),
        await store.browser_sessions.list_for_user("alice"),
        await store.oauth_sessions.get(P["OAuth session id"]),
        await store.oauth_sessions.get_by_code(P["authorization code"]),
        await store.oauth_sessions.get_by_state(P["state"]),
        await store.audit.list(),
    ]


def show(value: object) -> None:
    """Print a value in every way that a program or a log does."""
    out(repr(value), str(value), f"{value}", f"{value!r:.2000}", ascii(value))
    out(getattr(value, "as_dict", dict)())


async def fails(work: Callable[[], Awaitable[object]], code: str) -> None:
    """Print the error that ``work`` raises."""
    try:
        await work()
    except TokenStorageError as error:
        assert error.code == code, error
        show(error)
        out("".join(traceback.format_exception(error)))
        logging.getLogger("an application").exception("it failed")
    else:
        raise AssertionError(code)


async def errors(store: RefreshTokenStorage) -> None:
    """Fail in every way that an argument or a row can."""
    bad = [f"{P[name]}\ud800" for name in P]
    token, client, code = P["refresh token"], P["client secret"], P["authorization code"]
    for number, work in enumerate(
        (
            lambda: store.store_refresh_token("alice", bad[0]),
            lambda: store.store_refresh_token("alice", token, scopes="x"),
            lambda: store.store_refresh_token("alice", token, expires_at=-1),
            lambda: store.app_passwords.store("alice", bad[1]),
            lambda: store.oauth_clients.store("client", bad[2], redirect_uris=[]),
            lambda: store.oauth_clients.store("client", client, redirect_uris=[""]),
            lambda: store.login_flows.store("alice", bad[4], "https://x", expires_at=1),
            lambda: store.browser_sessions.create(bad[5], "alice", expires_at=1),
            lambda: store.browser_sessions.get(bad[5]),
            lambda: store.oauth_sessions.get_by_code(f"{code}\x00"),
            lambda: store.oauth_sessions.get_by_state(f"{P['state']}\n"),
            lambda: store.store_user_profile("alice", {P["profile"]: float("nan")}),
        )
    ):
        out(number)
        await fails(work, "bad-input")
    await fails(
        lambda: store.browser_sessions.create(P["session id"], "alice", expires_at=LATE),
        "conflict",
    )
    await fails(
        lambda: store.oauth_sessions.create(
            "another-session-with-an-id",
            "https://x",
            expires_at=1,
            mcp_authorization_code=P["authorization code"],
        ),
        "conflict",
    )


async def main(path: Path) -> None:
    """Run a store through its life."""
    older, key, wrong = KEYS["older key"], KEYS["key"], KEYS["wrong key"]
    async with RefreshTokenStorage(path, encryption_key=older) as store:
        await fill(store)
        for value in await read(store):
            show(value)
        await errors(store)
        show(store)
    async with RefreshTokenStorage(path, encryption_key=[key, older]) as store:
        await fill_again(store)
    await fails(RefreshTokenStorage(path, encryption_key=wrong).initialize, "wrong-key")
    await fails(RefreshTokenStorage(path, encryption_key=f"{key}x").initialize, "malformed-key")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE app_passwords SET encrypted_password = 'gAAAA'")
    async with RefreshTokenStorage(path, encryption_key=[key, older]) as store:
        await fails(lambda: store.app_passwords.get("alice"), "undecryptable")
        await store.app_passwords.store("alice", P["app password"])
        closed = store
    await fails(lambda: closed.get_refresh_token("alice"), "not-open")


async def fill_again(store: RefreshTokenStorage) -> None:
    """Replace a secret, with a newer key."""
    await store.store_refresh_token("alice", P["refresh token"])
    show(await store.get_refresh_token("alice"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s %(args)s")
    asyncio.run(main(Path(sys.argv[1])), debug=True)
