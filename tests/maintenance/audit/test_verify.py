"""Verifying finds what somebody without the key has changed, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import pytest

from nextcloud_mcp_server.auth import audit, concern
from nextcloud_mcp_server.auth.audit import AuditEntry, signature
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.audit import rows, verify
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.schema.secrets import SECRETS, SecretColumn
from nextcloud_mcp_server.settings import Settings
from tests.maintenance.audit.conftest import Place
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses
from tests.support.secret_rows import SESSION


def test_what_the_store_has_written_is_right(place: Place) -> None:
    """Every secret has the hash of its newest entry, and every entry has the code of its key."""
    found = place.verify()
    assert found.is_right
    assert found.complete
    assert (found.entries, found.right) == (9, 9)
    assert (found.secrets, found.matching) == (len(SECRETS) + 1, len(SECRETS) + 1)


@pytest.mark.parametrize("page", [1, 2, 3])
def test_pages_of_any_size_find_the_same(
    page: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No entry and no row is read twice or left out between two pages."""
    monkeypatch.setattr(verify, "PAGE", page)
    monkeypatch.setattr(rows, "_PAGE", page)
    monkeypatch.setattr(rows, "_LARGE_PAGE", page)
    found = place.verify()
    assert (found.right, found.matching) == (9, len(SECRETS) + 1)


FORGED = (
    "INSERT INTO audit_logs (id, timestamp, event, user_id, digest, mac) "
    "VALUES (99, 1, 'store_refresh_token', 'alice', {}, {})"
)


@pytest.mark.parametrize(
    ("digest", "mac"),
    [
        ("NULL", f"'{Keyring(KEY).keys[0].id}:{'0' * 64}'"),
        ("'refresh_tokens.encrypted_token=x'", f"'{Keyring(KEY).keys[0].id}:{'0' * 64}'"),
        ("'refresh_tokens.encrypted_token=x'", "NULL"),
        ("NULL", "''"),
        ("NULL", "'x'"),
    ],
    ids=["its code", "a digest", "a digest without a code", "an empty code", "no code"],
)
def test_a_forged_entry_is_listed(digest: str, mac: str, place: Place) -> None:
    """Nobody makes its code without the key, and its digest decides about no row."""
    place.sql(FORGED.format(digest, mac))
    assert place.wrong() == [99]
    assert place.changed() == []


@pytest.mark.parametrize(
    "change",
    [
        "timestamp = timestamp + 1",
        "event = 'delete_refresh_token'",
        "user_id = 'bob'",
        "resource_type = 'x'",
        "resource_id = 'x'",
        "auth_method = NULL",
        "hostname = 'another'",
        "digest = NULL",
        "id = 77",
        "mac = NULL",
    ],
)
def test_a_changed_field_is_found(change: str, place: Place) -> None:
    """Each field is authenticated, and so is the place of the entry in the log."""
    place.sql(f"UPDATE audit_logs SET {change} WHERE id = 3")
    assert place.wrong() == [77 if "77" in change else 3]


def test_swapped_rows_are_found(place: Place) -> None:
    """Both rows have another ciphertext than was stored for them."""
    alice, bob = place.token("alice"), place.token("bob")
    place.put("alice", bob)
    place.put("bob", alice)
    assert place.changed() == [("refresh_tokens", "alice"), ("refresh_tokens", "bob")]


async def test_a_row_that_was_rolled_back_is_found(place: Place) -> None:
    """The old entry with its hash is still there: only the newest one counts."""
    old = place.token("alice")
    async with place.store() as store:
        await store.store_refresh_token("alice", "third token of alice")
    assert place.verify().is_right
    place.put("alice", old)
    assert place.changed() == [("refresh_tokens", "alice")]
    [one] = place.verify().changed.first
    assert (one.column, one.reason) == (
        "encrypted_token",
        "it was stored as another value (entry 10)",
    )


async def test_a_row_that_was_deleted_and_put_back_is_found(place: Place) -> None:
    """The newest entry that names the row says that there is none."""
    old = place.token("bob")
    async with place.store() as store:
        await store.delete_refresh_token("bob")
        place.sql(
            "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at) "
            "VALUES ('bob', ?, 1, 1)",
            old,
        )
    [one] = place.verify().changed.first
    assert (one.row, one.reason) == ("bob", "it was deleted (entry 10)")
    async with place.store() as store:
        await store.store_refresh_token("bob", "again")
    assert place.verify().is_right


@pytest.mark.parametrize("secret", SECRETS, ids=lambda secret: f"{secret.table}.{secret.column}")
def test_each_column_is_compared(secret: SecretColumn, place: Place) -> None:
    """A secret of each column that somebody has written is listed by its row."""
    table, column = secret.table, secret.column
    who = "" if table.startswith("oauth") else " WHERE user_id = 'alice'"
    [(stored,)] = place.sql(f"SELECT {column} FROM {table}{who}")
    value = "v2.x" if isinstance(stored, str) else b"v2.x"
    place.sql(f"UPDATE {table} SET {column} = ?{who}", value)
    [one] = place.verify().changed.first
    assert (one.table, one.column) == (table, column)
    assert one.row.startswith({"oauth_clients": "1", "oauth_sessions": "sha256:"}.get(table, "al"))
    assert SESSION not in one.row


def test_without_its_newest_entry_a_row_differs_from_the_one_before(place: Place) -> None:
    """Who deletes the newest entry alone leaves a row that the one before does not explain."""
    place.sql("DELETE FROM audit_logs WHERE id = 3")
    assert place.changed() == [("refresh_tokens", "alice")]


def test_a_state_with_its_whole_log_is_not_found(place: Place) -> None:
    """Who also deletes every later entry puts an old state back: the documented limit."""
    old = place.token("alice")
    place.put("alice", old)
    assert place.verify().is_right


async def test_a_restored_backup_is_consistent(place: Place) -> None:
    """A backup has the log of its time: nothing is wrong with it."""
    if "://" in place.name:
        pytest.skip("a backup of a server is not a file")
    shutil.copy(place.name, f"{place.name}.old")
    async with place.store() as store:
        await store.store_refresh_token("alice", "third token of alice")
    shutil.copy(f"{place.name}.old", place.name)
    assert place.verify().is_right
    assert place.verify().matching == len(SECRETS) + 1


def test_a_secret_without_an_entry_is_counted(place: Place) -> None:
    """The log is kept for some time: what is older is unknown, and no error."""
    place.sql("DELETE FROM audit_logs WHERE id < 5")
    found = place.verify()
    assert found.is_right
    assert (found.entries, found.unnamed, found.matching) == (5, 3, len(SECRETS) - 2)


def test_unsigned_entries_are_counted(place: Place) -> None:
    """They are from before the first secret, or of the command that deletes what is expired."""
    entry = "INSERT INTO audit_logs (id, timestamp, event, user_id) VALUES ({}, 1, '{}', 'bob')"
    place.sql("DELETE FROM audit_logs WHERE id = 1")
    place.sql(entry.format(1, "store_refresh_token"))
    place.sql(entry.format(50, "delete_expired_oauth_session"))
    found = place.verify()
    assert found.is_right
    assert (found.unsigned, found.unsigned_later, found.right) == (2, 1, 8)


#: What somebody does to the newest entry of a row that is rolled back.
HIDDEN = {
    "without its code": "digest = NULL, mac = NULL",
    "with another event": "event = 'refuse_app_password', digest = NULL, mac = NULL",
    "of another user": "user_id = 'carol', digest = NULL, mac = NULL",
    "of a key that is not registered": "mac = '00000000000000aa:' || substr(mac, 18)",
    "of no key": "mac = 'x'",
    "as if it had expired": "event = 'delete_expired_refresh_token', digest = NULL, mac = NULL",
    "as if another had": "event = 'delete_expired_login_flow', digest = NULL, mac = NULL",
}


@pytest.mark.parametrize("change", HIDDEN.values(), ids=HIDDEN)
async def test_a_rolled_back_row_cannot_be_hidden(change: str, place: Place) -> None:
    """The newest entry cannot be made to look like one without a key."""
    old = place.token("alice")
    async with place.store() as store:
        await store.store_refresh_token("alice", "third token of alice")
    place.put("alice", old)
    place.sql(f"UPDATE audit_logs SET {change} WHERE id = 10")
    if change.startswith("event = 'delete_expired_login_flow'"):
        # The documented limit: that is what deleting the entry does, too.
        assert place.verify().unsigned_later == 1
        return
    found = place.verify()
    assert not found.is_right
    assert place.wrong() == [10] or {*place.changed()} == {("refresh_tokens", "alice")}


async def test_an_older_entry_cannot_be_hidden_either(place: Place) -> None:
    """An entry with a code after it does not make one without a code look older than the keys."""
    old = place.token("alice")
    async with place.store() as store:
        await store.store_refresh_token("alice", "third token of alice")
        await store.store_refresh_token("carol", "token of carol")
    place.put("alice", old)
    place.sql(
        "UPDATE audit_logs SET event = 'refuse_app_password', digest = NULL, mac = NULL "
        "WHERE id = 10"
    )
    assert place.wrong() == [10]


def test_a_deletion_from_before_the_first_secret_decides_nothing(place: Place) -> None:
    """A released version has deleted a row, and stored it again, without codes."""
    place.sql("DELETE FROM audit_logs WHERE user_id = 'bob' OR id = 1")
    place.sql(
        "INSERT INTO audit_logs (id, timestamp, event, user_id) "
        "VALUES (1, 1, 'delete_refresh_token', 'bob')"
    )
    found = place.verify()
    assert (found.is_right, found.unnamed) == (True, 1)


@pytest.mark.parametrize("event", ["revoke_app_password", "delete_refresh_token", "promote_key"])
def test_an_entry_without_a_code_is_forged(event: str, place: Place) -> None:
    """Every server signs its entries from the first secret on."""
    place.sql(f"INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, '{event}', 'alice')")
    found = place.verify()
    assert (found.wrong.number, found.matching) == (1, len(SECRETS) + 1)


def test_an_expiry_that_left_its_row_is_found(place: Place) -> None:
    """The command deletes the row: if it is there, it was put back, or the entry is forged."""
    place.sql(
        "INSERT INTO audit_logs (id, timestamp, event, user_id) "
        "VALUES (50, 1, 'delete_expired_refresh_token', 'alice')"
    )
    # With its profile.
    assert place.changed() == [("refresh_tokens", "alice")] * 2


def test_the_keys_are_compared_with_the_log(place: Place) -> None:
    """The states that the log names last, and what the primary key has signed."""
    new = Keyring(OTHER_KEY).fingerprints[0]
    both = place.settings(OTHER_KEY, KEY)
    introduce(both, new)
    promote(both, new)
    assert place.verify(OTHER_KEY, KEY).is_right
    rows = place.sql("SELECT id, state FROM keys ORDER BY state")
    place.sql("UPDATE keys SET state = 'former' WHERE state = 'primary'")
    place.sql("UPDATE keys SET state = 'primary' WHERE id = ?", rows[0][0])
    assert place.changed(OTHER_KEY, KEY) == [("keys", "every key")]
    with refuses("keys-changed"):
        rotate(both)


@pytest.mark.parametrize("state", ["former", "retired", "introduced"])
def test_a_table_without_a_primary_key_is_changed(state: str, place: Place) -> None:
    """No command leaves it so: verifying says it, and a start does not blame the given key."""
    place.sql("UPDATE keys SET state = ?", state)
    assert place.changed() == [("keys", "every key")]
    with refuses("keys-changed"):
        rotate(place.settings())


def test_without_the_promoted_key_nothing_is_called_changed(place: Place) -> None:
    """Its entry cannot be verified, so an older entry decides nothing about its state."""
    new = Keyring(OTHER_KEY).fingerprints[0]
    introduce(place.settings(OTHER_KEY, KEY), new)
    promote(place.settings(OTHER_KEY, KEY), new)
    found = place.verify(KEY)
    assert found.is_right
    assert found.unknown_keys == {new: 1}


#: How somebody adds an entry that has no code of a key.
_ADD = (
    "INSERT INTO audit_logs (id, timestamp, event, user_id, digest, mac) VALUES (?, ?, ?, ?, ?, ?)"
)
_EVENT = ("delete_refresh_token", "alice")
ADDED = {
    "a free id from before, and a digest": (
        1,
        1,
        *_EVENT,
        "refresh_tokens.encrypted_token=x",
        None,
    ),
    "an id that is never given": (-7, 1, *_EVENT, None, None),
    "a key that he has introduced": (-7, 1, *_EVENT, None, f"00112233445566aa:{'0' * 64}"),
}


@pytest.mark.parametrize("entry", ADDED.values(), ids=ADDED)
def test_an_added_entry_is_forged(entry: Sequence[Any], place: Place) -> None:
    """Neither its id nor its time nor a key that he registers makes it one from before."""
    place.sql("DELETE FROM audit_logs WHERE id = 1")
    place.sql(
        "INSERT INTO keys VALUES ('00112233445566aa', 'v2', 'introduced', 'x', 'ffff0000', 1)"
    )
    number, at, *rest = entry
    place.sql(_ADD, number, int(at), *rest)
    assert place.wrong() == [number]


_NEW, _OLD = (Keyring(key).fingerprints[0] for key in (OTHER_KEY, KEY))
Step = Callable[[Settings], object]
_PROMOTED: list[Step] = [lambda both: introduce(both, _NEW), lambda both: promote(both, _NEW)]
_RETIRED: list[Step] = [*_PROMOTED, rotate, lambda both: retire(both, _OLD)]
_AGAIN: list[Step] = [lambda both: introduce(both, _OLD)]

#: What is done before the table of keys is copied, and after that.
TABLES: dict[str, tuple[list[Step], list[Step]]] = {
    "promoted": (_PROMOTED, [lambda both: promote(both, _OLD)]),
    "retired": (_PROMOTED, _RETIRED[2:]),
    "introduced": (_RETIRED, _AGAIN),
    "promoted and former": (
        _RETIRED,
        [*_AGAIN, lambda both: promote(both, _OLD), lambda both: promote(both, _NEW)],
    ),
}


def _put_back(place: Place, before: list[Step], after: list[Step]) -> None:
    both = place.settings(OTHER_KEY, KEY)
    for step in before:
        step(both)
    assert place.verify(OTHER_KEY, KEY).is_right
    table = place.sql('SELECT id, kind, state, "check", fingerprint, created_at FROM keys')
    for step in after:
        step(both)
    assert place.verify(OTHER_KEY, KEY).is_right
    place.sql("DELETE FROM keys")
    for row in table:
        place.sql("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?)", *row)


@pytest.mark.parametrize("change", TABLES)
def test_an_older_table_of_keys_is_found(change: str, place: Place) -> None:
    """It is what the primary key has signed, but the log says what was done since then."""
    _put_back(place, *TABLES[change])
    # A forged entry explains nothing.
    place.sql(
        "INSERT INTO audit_logs (timestamp, event, user_id, resource_type, resource_id, mac) "
        "VALUES (1, 'promote_key', 'system', 'v2_key', ?, 'x')",
        _OLD,
    )
    found = place.verify(OTHER_KEY, KEY)
    assert [(one.table, one.row) for one in found.changed.first] == [("keys", f"{_OLD} v2")]
    assert found.wrong.number == 1


def test_an_entry_that_cannot_be_verified_accuses_no_key(place: Place) -> None:
    """Without the key that has signed it, anybody can have written it."""
    _put_back(place, *TABLES["promoted"])
    assert place.verify(OTHER_KEY).is_right


def test_a_key_that_somebody_registers_as_former_is_found(place: Place) -> None:
    """The primary key has not signed it, whatever entries have its id."""
    place.sql("INSERT INTO keys VALUES ('00112233445566aa', 'v2', 'former', 'x', 'feedbeef', 1)")
    assert place.changed() == [("keys", "every key")]


def test_a_log_without_any_code_is_forged(place: Place) -> None:
    """The first secret has registered a key, and its own entry had a code."""
    place.sql("UPDATE audit_logs SET mac = NULL, digest = NULL, timestamp = timestamp + 7200")
    assert len(place.wrong()) == 9


async def test_a_server_with_another_key_writes_nothing(empty: Place) -> None:
    """It lost the race for the first secret: an entry without a code would count as forged."""
    async with empty.store() as first, empty.store(OTHER_KEY) as second:
        await first.store_refresh_token("alice", "token")
        for call in (
            lambda: second.store_refresh_token("bob", "token"),
            lambda: second.browser_sessions.create("b" * 40, "bob", expires_at=4_000_000_000),
            lambda: second.delete_refresh_token("alice"),
        ):
            with refuses("wrong-key"):
                await call()
    found = empty.verify()
    assert (found.is_right, found.entries) == (True, 1)


async def test_an_entry_beside_the_first_secret_has_a_code(
    empty: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for that transaction: with a later id and no code it would count as forged."""
    begun, record = threading.Event(), audit.record

    def slow(connection: Connection, entry: Mapping[str, Any], *arguments: Any) -> None:
        record(connection, entry, *arguments)
        begun.set()
        time.sleep(0.5)

    monkeypatch.setattr(concern, "record", slow)
    async with empty.store() as first, empty.store() as second:
        storing = asyncio.create_task(first.store_refresh_token("alice", "token"))
        await asyncio.to_thread(begun.wait)
        await second.audit.add("login_failed", "bob")
        await storing
    found = empty.verify()
    assert (found.is_right, found.right) == (True, 2)


async def test_a_process_without_the_primary_key_signs_with_another(place: Place) -> None:
    """What it does without encrypting is signed by a registered key that it has."""
    new = Keyring(OTHER_KEY).fingerprints[0]
    async with place.store() as store:
        introduce(place.settings(OTHER_KEY, KEY), new)
        promote(place.settings(OTHER_KEY, KEY), new)
        assert await store.delete_refresh_token("bob")
    found = place.verify(OTHER_KEY, KEY)
    assert (found.is_right, found.unsigned_later) == (True, 0)
    assert place.verify(OTHER_KEY).unknown_keys.total() == 11


def _sign(place: Place, key: str, digest: str | None) -> None:
    """Write entry 50 as a server with this key, which has encrypted."""
    both = place.settings(key, KEY)
    [name, before] = Keyring(both.keys).fingerprints
    introduce(both, name)
    promote(both, name)
    promote(both, before)
    entry = AuditEntry(50, 1, "store_refresh_token", "alice", None, None, None, None, digest)
    mac = signature(entry, Keyring(key).keys[0])
    place.sql(
        "INSERT INTO audit_logs (id, timestamp, event, user_id, digest, mac) "
        "VALUES (50, 1, 'store_refresh_token', 'alice', ?, ?)",
        digest,
        mac,
    )


def test_each_key_verifies_its_entries(place: Place) -> None:
    """With two keys, the entries of both are right, and those of one not given are counted."""
    _sign(place, OTHER_KEY, None)
    assert place.verify(OTHER_KEY, KEY).right == 13
    found = place.verify()
    assert found.is_right
    assert (found.right, found.unknown_keys) == (11, {Keyring(OTHER_KEY).fingerprints[0]: 2})
    found = place.verify(OTHER_KEY)
    assert found.unknown_keys == {Keyring(KEY).fingerprints[0]: 11}
    assert (found.matching, found.unverified, found.is_right) == (0, len(SECRETS) + 1, True)


def test_an_entry_of_a_key_that_is_not_given_excuses_no_row(place: Place) -> None:
    """Anybody can name such a key: the newest entry that is right decides."""
    digest = "refresh_tokens.encrypted_token=x"
    _sign(place, OTHER_KEY, digest)
    assert place.changed() == []
    assert place.verify().unverified == 1
    place.put("alice", place.token("bob"))
    [one] = place.verify().changed.first
    assert "entry 3), and a newer entry is of key" in one.reason
    assert place.changed(OTHER_KEY, KEY) == [("refresh_tokens", "alice")]


def test_a_signed_log_needs_a_key(place: Place) -> None:
    """Without any key, or with another one, nothing could be verified, and that is no success."""
    with refuses("key-missing"):
        verify.verify(place.settings()._replace(keys=()))
    with refuses("wrong-key"):
        place.verify(OTHER_KEY)


async def test_a_session_of_a_released_version_is_named_by_its_hash(empty: Place) -> None:
    """Its row has the plain id, and its entries have the hash."""
    async with empty.store():
        pass
    empty.sql(
        "INSERT INTO oauth_sessions (session_id, client_redirect_uri, created_at, expires_at, "
        "flow_type) VALUES (?, 'http://x', 1, 4000000000, 'hybrid')",
        SESSION,
    )
    async with empty.store() as store:
        assert await store.oauth_sessions.update(SESSION, idp_access_token="a")
    assert (empty.verify().matching, empty.verify().unnamed) == (1, 0)
    empty.sql("UPDATE oauth_sessions SET idp_access_token = 'another'")
    [(table, row)] = empty.changed()
    assert (table, row[:7]) == ("oauth_sessions", "sha256:")


def test_a_limit_reads_the_newest_entries(place: Place) -> None:
    """The rest is not read, and the result says so."""
    place.sql("UPDATE audit_logs SET hostname = 'x' WHERE id IN (2, 9)")
    found = place.verify(limit=3)
    assert (found.entries, found.wrong.number, found.complete) == (3, 1, False)
    assert place.verify(limit=100).complete


def test_below_103_there_is_nothing_to_verify(place: Place) -> None:
    """Every entry is unsigned there, and no secret has an entry."""
    for column in ("digest", "mac"):
        place.sql(f"ALTER TABLE audit_logs DROP COLUMN {column}")
    found = place.verify()
    assert found.is_right
    assert (found.unsigned, found.unnamed) == (9, len(SECRETS) + 1)


def test_a_missing_database_has_no_log(empty: Place) -> None:
    """That is no error: a start creates it."""
    assert not empty.verify().exists


async def test_it_reads_beside_a_server_that_writes(place: Place) -> None:
    """A row and its entries are of one moment: no write in between is an alarm."""
    async with place.store() as store:

        async def write() -> None:
            for number in count():
                await store.store_refresh_token("alice", f"token {number}")

        writer = asyncio.create_task(write())
        for _ in range(10):
            found = await asyncio.to_thread(place.verify)
            assert (found.is_right, found.matching) == (True, len(SECRETS) + 1)
        assert not writer.done()
        writer.cancel()
