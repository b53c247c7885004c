"""A new key never encrypts before it is promoted, also where no key is registered yet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.migrations import upgrade_database
from tests.maintenance.keys.helpers import LOST, NEW, NEWEST, OLDER, given, grant
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses


def states(path: Path, *keys: str) -> dict[tuple[str, str], str]:
    """Return the state of each registered key, by kind and fingerprint."""
    census = count_secrets(given(path, *keys))
    return {(key.kind, key.fingerprint): key.state for key in census.keys if key.state}


def store(path: Path, *keys: str) -> None:
    """Store a token by a process that has only these keys."""

    async def one() -> None:
        async with RefreshTokenStorage(path, encryption_key=keys) as storage:
            await storage.store_refresh_token("a process", "a token")

    asyncio.run(one())


@pytest.mark.parametrize("name", [None, NEWEST], ids=["none", "newest"])
def test_a_process_without_the_new_key_goes_on(token_db: Path, name: str | None) -> None:
    """Released versions have stored secrets, and nobody has stored one since the upgrade."""
    upgrade_database(token_db)
    grant(token_db, "alice")
    assert introduce(given(token_db), name) == (NEWEST, "v2", "introduced", True)
    assert states(token_db) == {
        ("v2", NEWEST): "introduced",
        ("v2", OLDER): "primary",
        ("fernet", NEWEST): "former",
        ("fernet", OLDER): "former",
    }
    store(token_db, KEY)
    promote(given(token_db), NEWEST)
    with refuses("wrong-key"):
        store(token_db, KEY)


def test_with_no_secret_the_oldest_key_encrypts(token_db: Path) -> None:
    """Every process has it, and any of them may store the first secret."""
    upgrade_database(token_db)
    introduce(given(token_db))
    assert states(token_db) == {("v2", NEWEST): "introduced", ("v2", OLDER): "primary"}
    store(token_db, KEY)


def test_a_new_key_that_has_encrypted_is_in_use(token_db: Path) -> None:
    """It is named by a secret, so every process has it; an even newer one may be missing."""
    upgrade_database(token_db)
    grant(token_db, "alice", Fernet(OTHER_KEY).encrypt(b"alice"))
    grant(token_db, "bob")
    keys = (NEW, OTHER_KEY, KEY)
    assert introduce(given(token_db, *keys)).fingerprint == NEWEST
    assert states(token_db, *keys)["v2", LOST] == "primary"
    store(token_db, OTHER_KEY, KEY)


@pytest.mark.parametrize("name", [None, OLDER], ids=["none", "named"])
def test_the_key_in_use_becomes_primary(token_db: Path, name: str | None) -> None:
    """If there is no newer one, or if it is named."""
    upgrade_database(token_db)
    grant(token_db, "alice")
    keys = (KEY,) if name is None else (NEW, KEY)
    assert introduce(given(token_db, *keys), name) == (OLDER, "v2", "primary", True)
    assert introduce(given(token_db, *keys), OLDER) == (OLDER, "v2", "primary", False)


def test_a_key_that_opens_nothing_registers_nothing(token_db: Path) -> None:
    """The secrets would be lost to the process that has the right one."""
    upgrade_database(token_db)
    grant(token_db, "alice")
    with refuses("wrong-key"):
        introduce(given(token_db, NEW, OTHER_KEY))
    assert states(token_db) == {}


def test_only_what_was_introduced_is_promoted(token_db: Path) -> None:
    """The other processes may not have it."""
    upgrade_database(token_db)
    introduce(given(token_db, KEY))
    with refuses("bad-input", match=f"Key {NEWEST} is not introduced"):
        promote(given(token_db), NEWEST)
    assert states(token_db) == {("v2", OLDER): "primary"}
