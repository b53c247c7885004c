"""Nobody without the primary key lets another one encrypt, or lets an old value be accepted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import FERNET, check_value
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.migrations import upgrade_database
from tests.maintenance.keys.helpers import NEW, NEWEST, OLDER, given, grant, opened
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses

OLD, NEWER = (Keyring(key).keys[0] for key in (KEY, NEW))


@pytest.fixture
def path(token_db: Path) -> Path:
    """A database in which the new key encrypts, and the old one is retired in both formats."""
    upgrade_database(token_db)
    grant(token_db, "alice")
    introduce(given(token_db, KEY))
    introduce(given(token_db), NEWEST)
    promote(given(token_db), NEWEST)
    rotate(given(token_db))
    retire(given(token_db), OLDER, fernet=True)
    retire(given(token_db), OLDER)
    return token_db


def read(path: Path, user: str = "alice", *keys: str) -> str | None:
    """Return the token of a user, read by a new store."""

    async def one() -> str | None:
        async with RefreshTokenStorage(path, encryption_key=keys or (NEW, KEY)) as storage:
            found = await storage.get_refresh_token(user)
            return None if found is None else found.token

    return asyncio.run(one())


def row(identity: str, kind: str, state: str, check: str) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that inserts or replaces a registered key."""
    sql = "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?, ?, 1)"
    return sql, (identity, kind, state, check, identity[:8])


FORGED = {
    "a retired key of released versions": (
        "UPDATE keys SET state = 'former' WHERE kind = ?",
        (FERNET,),
    ),
    "an invented one": row("deadbeef", FERNET, "former", "no check"),
    "an invented one with a check of its own": row(
        "deadbeef", FERNET, "former", check_value(OLD, FERNET)
    ),
    "its own one again": row(OLDER, FERNET, "introduced", check_value(OLD, FERNET)),
    "the retired key in place of the primary": (
        "UPDATE keys SET state = CASE id WHEN ? THEN 'primary' ELSE 'former' END WHERE kind = 'v2'",
        (OLD.id,),
    ),
    "the retired key beside the primary": (
        "UPDATE keys SET state = 'primary' WHERE id = ?",
        (OLD.id,),
    ),
    "the retired key with the check of the primary": (
        (
            'UPDATE keys SET state = \'primary\', "check" = (SELECT k."check" FROM keys k '
            "WHERE k.id = ?) WHERE id = ?"
        ),
        (NEWER.id, OLD.id),
    ),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_what_somebody_registers_has_no_effect(
    path: Path, forged: tuple[str, tuple[Any, ...]]
) -> None:
    """No start accepts it, a store that is open opens no old value, and nothing is encrypted."""
    stolen = Fernet(KEY).encrypt(b"old")

    async def beside() -> list[str]:
        codes = []
        async with RefreshTokenStorage(path, encryption_key=(NEW, KEY)) as storage:
            with opened(path) as connection:
                connection.execute(*forged)
            grant(path, "bob", stolen)
            for call in (
                storage.get_refresh_token("bob"),
                storage.store_refresh_token("carol", "token"),
            ):
                try:
                    await call
                except TokenStorageError as error:
                    codes.append(error.code)
                else:
                    codes.append("")
            # What the primary key has encrypted is read as before.
            alice = await storage.get_refresh_token("alice")
            assert alice is not None
            assert alice.token == "alice"
        return codes

    read_code, store_code = asyncio.run(beside())
    assert read_code in {"undecryptable", "keys-changed"}
    with opened(path) as connection:
        [[carol]] = connection.execute(
            "SELECT count(*) FROM refresh_tokens WHERE user_id = 'carol' AND encrypted_token "
            "NOT LIKE ?",
            (NEWER.seal(b"", b"")[:12].decode() + "%",),
        )
    assert (store_code in {"", "keys-changed"}, carol) == (True, 0)
    with refuses("keys-changed", match="was changed without key"):
        read(path)
    with refuses("keys-changed"):
        rotate(given(path))


def test_a_value_that_is_put_back_is_not_rotated(path: Path) -> None:
    """Then the primary key would vouch for it: it is named as not accepted."""
    with opened(path) as connection:
        connection.execute(*FORGED["a retired key of released versions"])
    grant(path, "bob", Fernet(KEY).encrypt(b"old"))
    [bob] = count_secrets(given(path)).unopened
    assert (bob.row, "not accepted" in bob.reason) == ("bob", True)


@pytest.mark.parametrize(
    ("forged", "undo"),
    [
        (
            "a retired key of released versions",
            lambda path: retire(given(path), OLDER, fernet=True),
        ),
        ("an invented one", lambda path: retire(given(path), "deadbeef")),
        ("the retired key in place of the primary", lambda path: promote(given(path), NEWEST)),
        ("the retired key beside the primary", lambda path: promote(given(path), NEWEST)),
    ],
)
def test_a_change_is_undone_with_the_commands(path: Path, forged: str, undo: Any) -> None:
    """What the error says: retire what must not be accepted, promote what has to encrypt."""
    with opened(path) as connection:
        connection.execute(*FORGED[forged])
    assert undo(path).changed
    assert read(path) == "alice"
    assert read(path, "alice", NEW) == "alice"


def test_a_key_that_is_not_given_cannot_be_asked(path: Path) -> None:
    """Without the primary key nothing is accepted or retired; a new key can be promoted."""
    with refuses("wrong-key"):
        introduce(given(path, KEY), OLDER, fernet=True)
    other = Keyring(OTHER_KEY).fingerprints[0]
    introduce(given(path, OTHER_KEY), other)
    assert read(path) == "alice"
    assert promote(given(path, OTHER_KEY), other).changed
    assert read(path, "alice", OTHER_KEY, NEW) == "alice"


def test_a_table_that_was_emptied_accepts_nothing_old(path: Path) -> None:
    """Neither with a secret of the second format nor, if all were replaced, with a signed log."""
    stolen = Fernet(KEY).encrypt(b"old")
    with opened(path) as connection:
        connection.execute("DELETE FROM keys")
        connection.execute("UPDATE refresh_tokens SET encrypted_token = ?", (stolen,))
    with refuses("undecryptable"):
        read(path)
    with opened(path) as connection:
        connection.execute("UPDATE audit_logs SET mac = NULL, digest = NULL")
    # The documented limit: nothing tells this from a database of a released version.
    assert read(path) == "old"
