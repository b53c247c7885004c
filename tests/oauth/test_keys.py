"""What people are told while the server lacks the key, and when a value is damaged."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.oauth.home_pages import DISCONNECT
from nextcloud_mcp_server.settings import Settings
from tests.maintenance.keys.helpers import NEW, NEWEST
from tests.oauth.person import Browser, Client, Served, answer
from tests.support.contents import KEY

if TYPE_CHECKING:
    import pytest


async def promoted(database: Path) -> None:
    """Let another key encrypt, which the running server does not have."""
    both = Settings(Path(), (NEW, KEY)).with_database(str(database))
    introduce(both, NEWEST)
    promote(both, NEWEST)
    await store_again(database, [NEW, KEY])


async def store_again(database: Path, keys: list[str]) -> None:
    """Encrypt the app password of alice with the newest key."""
    async with RefreshTokenStorage(database, encryption_key=keys) as storage:
        password = await storage.app_passwords.get("alice")
        assert password is not None
        await storage.app_passwords.store(
            "alice", password.password, server=password.server, name=password.name
        )


def connect(browser: Browser, client: Client) -> str:
    """Give a client access, and return its access token."""
    response = client.redeem(answer(browser.sign_in(client.url()))["code"])
    token: str = response.json()["access_token"]
    return token


def failed(client: Client, token: str) -> tuple[str, str]:
    """Call a tool that fails, and return its text and the id of the request."""
    response = client.call(token)
    result: dict[str, Any] = response.json()["result"]
    assert result["isError"] is True, result
    return result["content"][0]["text"], response.headers["X-Request-ID"]


def test_a_missing_key_is_for_the_operator(
    served: Served, browser: Browser, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is asked to sign in again; the log has one line with what the operator has to do."""
    token = connect(browser, client)
    browser.sign_in_at_home()
    asyncio.run(promoted(served.database))
    caplog.clear()
    text, request = failed(client, token)
    assert "its operator" in text
    assert request in text
    assert "sign in there" not in text
    assert "again does not help" in text
    lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    [line] = lines
    assert f"key {NEWEST} encrypts this database" in line
    assert "Add it to the key file of this server" in line
    page = browser.open("/")
    assert page.status_code == 503
    assert "its operator" in page.text
    assert page.headers["X-Request-ID"] in page.text
    assert "Disconnect" not in page.text
    assert "again does not help" in page.text
    # Nor does a new sign-in lead to something else.
    refused = browser.http.get(client.url())
    assert answer(refused.headers["Location"])["error"] == "temporarily_unavailable"


def test_a_damaged_value_leads_to_a_new_sign_in_which_helps(
    served: Served, browser: Browser, client: Client
) -> None:
    """With the right key, what cannot be decrypted is replaced, as the tool says, at home."""
    token = connect(browser, client)
    damage(served.database)
    text, _ = failed(client, token)
    assert "cannot be read" in text
    assert "sign in there" in text
    assert "Test client" in browser.sign_in_at_home().text
    assert client.call(token).json()["result"]["isError"] is False


def test_a_damaged_value_is_replaced_by_the_next_program(
    served: Served, browser: Browser, client: Client
) -> None:
    """Connecting a program stores a password again, and a person can also disconnect first."""
    token = connect(browser, client)
    damage(served.database)
    connect(browser, client)
    assert client.call(token).json()["result"]["isError"] is False
    browser.sign_in_at_home()
    damage(served.database)
    page = browser.open("/")
    assert "cannot be read" in page.text
    left = browser.send(DISCONNECT, browser.send(DISCONNECT, page))
    assert "delete" in left.text


def damage(database: Path) -> None:
    """Change the last byte of the app password."""
    with closing(sqlite3.connect(database)) as connection, connection:
        [[stored]] = connection.execute("SELECT encrypted_password FROM app_passwords").fetchall()
        raw = bytearray(stored.encode() if isinstance(stored, str) else stored)
        raw[-6] = ord("A") if raw[-6] != ord("A") else ord("B")
        changed = raw.decode() if isinstance(stored, str) else bytes(raw)
        connection.execute("UPDATE app_passwords SET encrypted_password = ?", (changed,))
