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
from nextcloud_mcp_server.maintenance.audit.verify import verify
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote, recover
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.migrations import upgrade_database
from tests.maintenance.keys.helpers import LOST, NEW, NEWEST, OLDER, given, grant, opened
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses

OLD, NEWER = (Keyring(key).keys[0] for key in (KEY, NEW))

#: The second one if the row of the primary key cannot be told any more.
REFUSED = {"keys-changed", "wrong-key"}


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


def changed(what: str, *parameters: Any) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that changes the row of the primary key."""
    return f"UPDATE keys SET {what} WHERE state = 'primary'", parameters


RETIRED_CHECK = "(SELECT k.\"check\" FROM keys k WHERE k.kind = 'fernet')"

FORGED: dict[str, list[tuple[str, tuple[Any, ...]]]] = {
    "a retired key of released versions is accepted": [
        ("UPDATE keys SET state = 'former' WHERE kind = ?", (FERNET,))
    ],
    "its row is gone": [("DELETE FROM keys WHERE kind = ?", (FERNET,))],
    "an invented one": [row("deadbeef", FERNET, "former", "no check")],
    "an invented one with a check of its own": [
        row("deadbeef", FERNET, "former", check_value(OLD, FERNET))
    ],
    "its own one again": [row(OLDER, FERNET, "introduced", check_value(OLD, FERNET))],
    "an invented one that has encrypted": [row("00112233445566aa", "v2", "former", "no check")],
    "the retired key in place of the primary": [
        (
            (
                "UPDATE keys SET state = CASE id WHEN ? THEN 'primary' ELSE 'former' END "
                "WHERE kind = 'v2'"
            ),
            (OLD.id,),
        )
    ],
    "the retired key beside the primary": [
        ("UPDATE keys SET state = 'primary' WHERE id = ?", (OLD.id,))
    ],
    "the retired key with the check of the primary": [
        (
            (
                'UPDATE keys SET state = \'primary\', "check" = (SELECT k."check" FROM keys k '
                "WHERE k.id = ?) WHERE id = ?"
            ),
            (NEWER.id, OLD.id),
        )
    ],
    "the primary key is one of released versions": [changed("kind = 'fernet'")],
    "the retired key of released versions is the primary": [
        ("DELETE FROM keys WHERE state = 'primary'", ()),
        ("UPDATE keys SET state = 'primary' WHERE kind = 'fernet'", ()),
    ],
    "its row with the check of released versions": [
        changed(f"kind = 'fernet', \"check\" = {RETIRED_CHECK}"),
        ("DELETE FROM keys WHERE id = fingerprint", ()),
    ],
    "the table from before the promotion": [
        ("DELETE FROM keys WHERE id = ?", (NEWER.id,)),
        ("UPDATE keys SET state = CASE kind WHEN 'v2' THEN 'primary' ELSE 'former' END", ()),
    ],
    "another kind": [changed("kind = 'x'")],
    "another state": [changed("state = 'retired'")],
    "no row": [("DELETE FROM keys WHERE state = 'primary'", ())],
    "another id": [changed("id = '0123456789abcdef'")],
    "its fingerprint as its id": [changed("id = fingerprint")],
    "another fingerprint": [changed("fingerprint = '01234567'")],
    "a fingerprint for a terminal": [changed("fingerprint = ?", "x; touch y #\x1b[31m")],
    "another time": [changed("created_at = created_at - 1")],
    "no time": [changed("created_at = 'x'")],
    "a check that is no text": [changed('"check" = ?', b"\xff\x00")],
    "a check of other characters": [changed('"check" = ?', "tök€n")],
}


def tamper(path: Path, forged: str) -> None:
    """Change the table as somebody without a key does."""
    with opened(path) as connection:
        for statement, parameters in FORGED[forged]:
            connection.execute(statement, parameters)


@pytest.mark.parametrize("forged", FORGED)
def test_what_somebody_registers_has_no_effect(path: Path, forged: str) -> None:
    """No start accepts it, a store that is open opens no old value, and nothing is encrypted."""
    stolen = Fernet(KEY).encrypt(b"old")

    async def beside() -> list[str]:
        codes = []
        async with RefreshTokenStorage(path, encryption_key=(NEW, KEY)) as storage:
            tamper(path, forged)
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
    assert read_code in {"undecryptable", *REFUSED}
    with opened(path) as connection:
        [[carol]] = connection.execute(
            "SELECT count(*) FROM refresh_tokens WHERE user_id = 'carol' AND encrypted_token "
            "NOT LIKE ?",
            (NEWER.seal(b"", b"")[:12].decode() + "%",),
        )
    assert (store_code in {"", *REFUSED}, carol) == (True, 0)
    with pytest.raises(TokenStorageError) as caught:
        read(path)
    assert caught.value.code in REFUSED


@pytest.mark.parametrize("forged", FORGED)
def test_no_command_signs_what_somebody_has_registered(path: Path, forged: str) -> None:
    """The steps of a rotation end with an error; nothing is shown that a terminal interprets."""
    tamper(path, forged)
    other = given(path, OTHER_KEY, NEW, KEY)
    new = Keyring(OTHER_KEY).fingerprints[0]
    for command in (
        lambda: introduce(other, new),
        lambda: introduce(other, OLDER, fernet=True),
        lambda: promote(other, NEWEST),
        lambda: promote(other, OLDER),
        lambda: rotate(other),
    ):
        with pytest.raises(TokenStorageError) as caught:
            command()
        assert caught.value.code in {*REFUSED, "bad-input"}
        assert str(caught.value).isprintable()
    assert not verify(given(path)).is_right


@pytest.mark.parametrize("forged", FORGED)
def test_a_changed_table_is_signed_again(path: Path, forged: str) -> None:
    """With a given key the operator recovers it; nothing old is accepted then."""
    tamper(path, forged)
    grant(path, "bob", Fernet(KEY).encrypt(b"old"))
    assert recover(given(path), NEWEST).changed
    assert read(path) == "alice"
    with refuses("undecryptable"):
        read(path, "bob")
    assert {row.fingerprint for row in count_secrets(given(path)).keys} <= {
        NEWEST,
        OLDER,
        "deadbeef",
        "00112233",
        "01234567",
    }
    rotate(given(path))
    # Somebody may have let it open again.
    retire(given(path), OLDER)
    assert promote(given(path), NEWEST).changed is False
    assert verify(given(path)).is_right


@pytest.mark.parametrize(
    "what", ["fingerprint = 'deadbeef'", "created_at = 0", "created_at = 'x'", "\"check\" = 'x'"]
)
def test_an_introduced_key_is_registered_again(what: str, path: Path) -> None:
    """Nobody has signed its row before it is promoted: it is written from the given key."""
    keys, name = (OTHER_KEY, NEW, KEY), Keyring(OTHER_KEY).fingerprints[0]
    for again in (False, True):
        introduce(given(path, *keys), name)
        with opened(path) as connection:
            connection.execute(f"UPDATE keys SET {what} WHERE state = 'introduced'")
        if again:
            introduce(given(path, *keys), name)
        promote(given(path, *keys), name)
        assert read(path, "alice", *keys) == "alice"
        assert verify(given(path, *keys)).is_right
        promote(given(path, *keys), NEWEST)
        with opened(path) as connection:
            connection.execute("DELETE FROM keys WHERE fingerprint = ?", (name,))
        recover(given(path, *keys), NEWEST)


def test_a_row_that_nobody_can_have_written_is_found(path: Path) -> None:
    """In any state: it would block the command that registers the same id."""
    with opened(path) as connection:
        connection.execute(*row(OLDER[::-1], "v2", "introduced", "x"))
    with refuses("keys-changed"):
        read(path)


def test_the_log_says_what_a_recovery_has_ended(path: Path) -> None:
    """So it is no false alarm, and an older table that is put back is found."""
    introduce(given(path), OLDER, fernet=True)
    with opened(path) as connection:
        table = connection.execute("SELECT * FROM keys").fetchall()
    recover(given(path), NEWEST)
    assert verify(given(path)).is_right
    with opened(path) as connection:
        connection.execute("DELETE FROM keys")
        connection.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", table)
    assert [one.row for one in verify(given(path)).changed.first] == [f"{OLDER} fernet"]


def test_a_value_that_is_put_back_is_not_rotated(path: Path) -> None:
    """Then the primary key would vouch for it: it is named as not accepted."""
    tamper(path, "a retired key of released versions is accepted")
    grant(path, "bob", Fernet(KEY).encrypt(b"old"))
    [bob] = count_secrets(given(path)).unopened
    assert (bob.row, "not accepted" in bob.reason) == ("bob", True)


def test_without_the_primary_key_nothing_is_registered(path: Path) -> None:
    """A mistaken key would end every server; if the primary one is lost, that must be said."""
    other = Keyring(OTHER_KEY).fingerprints[0]
    for keys in ((OTHER_KEY,), (KEY,)):
        wrong = given(path, *keys)
        with refuses("wrong-key"):
            introduce(wrong)
        with refuses("wrong-key"):
            introduce(wrong, Keyring(keys).fingerprints[0], fernet=True)
        with refuses("wrong-key"):
            retire(wrong, OLDER)
    with refuses("bad-input", match="is not introduced"):
        promote(given(path, KEY), OLDER)
    introduce(given(path), OLDER)
    with refuses("wrong-key"):
        promote(given(path, KEY), OLDER)
    assert read(path) == "alice"
    assert recover(given(path, OTHER_KEY), other).changed
    assert read(path, "alice", OTHER_KEY, NEW) == "alice"
    assert verify(given(path, OTHER_KEY, NEW, KEY)).is_right


def _with_a_retired_one(path: Path) -> tuple[str, str]:
    """Let one of two keys of released versions be retired; return both keys."""
    upgrade_database(path)
    keys = OTHER_KEY, KEY
    grant(path, "alice")
    introduce(given(path, *keys))
    retire(given(path, *keys), LOST, fernet=True)
    return keys


def test_one_of_two_retired_keys_opens_nothing_old(token_db: Path) -> None:
    """While values of released versions are accepted that another key has encrypted."""
    keys = _with_a_retired_one(token_db)
    grant(token_db, "bob", Fernet(OTHER_KEY).encrypt(b"old"))
    assert read(token_db, "alice", *keys) == "alice"
    with refuses("undecryptable", match="not accepted any more"):
        read(token_db, "bob", *keys)


def test_an_open_store_verifies_again(token_db: Path) -> None:
    """A table that was changed is verified again: another key is accepted meanwhile."""
    keys = _with_a_retired_one(token_db)

    async def beside() -> None:
        async with RefreshTokenStorage(token_db, encryption_key=keys) as storage:
            assert await storage.get_refresh_token("alice") is not None
            with opened(token_db) as connection:
                connection.execute("UPDATE keys SET state = 'former' WHERE kind = 'fernet'")
            grant(token_db, "bob", Fernet(OTHER_KEY).encrypt(b"old"))
            with refuses("keys-changed"):
                await storage.get_refresh_token("bob")

    asyncio.run(beside())


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
