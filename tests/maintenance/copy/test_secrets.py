"""Every secret is decrypted for its row, and the copy opens with the same keys."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from nextcloud_mcp_server.auth.secrets import FERNET_COLUMNS
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.copy.run import Copied, Copy, Problems
from nextcloud_mcp_server.maintenance.keys.census import count_secrets
from nextcloud_mcp_server.maintenance.keys.promote import introduce, promote
from nextcloud_mcp_server.maintenance.keys.retire import retire
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.maintenance.keys.values import CHANGED, NO_KEY, NOT_ACCEPTED
from nextcloud_mcp_server.schema.secrets import SECRETS
from tests.maintenance.audit.conftest import Place
from tests.maintenance.keys.helpers import NEW, NEWEST, OLDER
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses
from tests.support.postgresql import Server
from tests.support.secret_rows import SESSION, store_each_secret

T = TypeVar("T")


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database with a secret of each column, on each engine."""
    if request.param == "sqlite":
        place = Place(f"{tmp_path}/stored.db")
    else:
        server: Server = request.getfixturevalue("postgresql_server")
        place = Place(server.schema_at_head()[1])
    run(place.store(), store_each_secret)
    return place


@pytest.fixture
def copied(other: object) -> Place:
    """Where there is nothing yet, on each engine."""
    return Place(str(other))


def run(store: RefreshTokenStorage, work: Callable[[RefreshTokenStorage], Awaitable[T]]) -> T:
    """Open a store, and return what is done with it."""

    async def main() -> T:
        async with store:
            return await work(store)

    return asyncio.run(main())


def copy(source: Place, target: Place, *keys: str) -> Copied:
    """Copy with these keys (default: that of the tests)."""
    return Copy(source.settings(*keys), target.settings(*keys)).run()


def unopened(source: Place, target: Place, *keys: str) -> list[Sequence[str]]:
    """Return the table, column and reason of each secret that is not copied."""
    found: list[Problems] = []
    with refuses("undecryptable"):
        Copy(source.settings(*keys), target.settings(*keys)).run(found.append)
    return [(one.table, one.column, one.reason.split(": ")[1]) for one in found[0].first]


def test_a_copy_opens_with_the_same_keys(stored: Place, copied: Place) -> None:
    """Also if one key encrypts and another opens; the audit log fits the secrets there."""
    keys = NEW, KEY
    introduce(stored.settings(*keys))
    promote(stored.settings(*keys), NEWEST)
    run(stored.store(NEW), lambda s: s.store_refresh_token("carol", "token of carol"))
    done = copy(stored, copied, *keys)
    assert done.secrets == len(SECRETS) + 2
    query = "SELECT id, kind, state, fingerprint FROM keys ORDER BY id"
    assert copied.sql(query) == stored.sql(query)
    assert count_secrets(copied.settings(*keys)).unopened == ()
    found = copied.verify(*keys)
    assert found.is_right
    assert (found.matching, found.entries) == (done.secrets, stored.verify(*keys).entries)
    with refuses("wrong-key"):
        asyncio.run(copied.store(OTHER_KEY).initialize())
    rotate(copied.settings(*keys))
    retire(copied.settings(NEW), OLDER)
    run(copied.store(NEW), _use)
    assert copied.verify(NEW, KEY).is_right


async def _use(store: RefreshTokenStorage) -> None:
    """Read secrets, and replace one."""
    session = await store.oauth_sessions.get(SESSION)
    password = await store.app_passwords.get("alice")
    assert session is not None
    assert password is not None
    assert (session.nonce, session.state, password.password) == ("nonce", "state", "password")
    await store.store_refresh_token("carol", "next token of carol")


def test_each_secret_is_opened_in_its_row(stored: Place, copied: Place) -> None:
    """A text of the right key that was made for another row is named in every column."""
    text = Keyring(KEY).keys[0].seal(json.dumps({}).encode(), b"another row")
    for secret in SECRETS:
        value = text if secret in FERNET_COLUMNS else text.decode()
        stored.sql(f"UPDATE {secret.table} SET {secret.column} = ?", value)
    found = unopened(stored, copied)
    assert set(found) == {(one.table, one.column, CHANGED) for one in SECRETS}
    assert Copy(stored.settings(KEY), copied.settings(KEY), without_keys=True).run().secrets is None


@pytest.mark.parametrize(
    "change",
    [
        ("app_passwords", "server", ["encrypted_password"]),
        ("refresh_tokens", "token_audience", ["encrypted_token"] * 2),
        ("login_flow_sessions", "poll_endpoint", ["encrypted_poll_token"]),
    ],
)
def test_a_value_that_a_secret_is_bound_to_is_not_changed(
    change: tuple[str, str, list[str]], stored: Place, copied: Place
) -> None:
    """The secret beside it does not open any more, so it is named."""
    table, column, columns = change
    stored.sql(f"UPDATE {table} SET {column} = 'https://elsewhere'")
    assert unopened(stored, copied) == [(table, one, CHANGED) for one in columns]


def test_a_secret_of_a_key_that_was_not_given_is_named(stored: Place, copied: Place) -> None:
    """The key that encrypts is given; those of the former one are listed, each once."""
    introduce(stored.settings(NEW, KEY))
    promote(stored.settings(NEW, KEY), NEWEST)
    with refuses("wrong-key"):
        copy(stored, copied, KEY)
    found = unopened(stored, copied, NEW)
    assert len(found) == len(SECRETS) + 1
    assert {reason for *_, reason in found} == {NO_KEY}


def test_an_id_in_plain_text_is_copied(stored: Place, copied: Place) -> None:
    """It is no secret of a key: whether a store accepts it is written in the table of keys."""
    stored.sql("INSERT INTO browser_sessions VALUES ('a-plain-id-0123456789', 'alice', 1, 2)")
    assert copy(stored, copied).rows["browser_sessions"] == 1


def test_a_released_text_is_refused_as_in_a_store(stored: Place, copied: Place) -> None:
    """A Fernet text in a database that never accepted one, or in which that has ended."""
    stored.put("bob", Keyring(KEY).keys[0].encrypt_fernet(b"first token of bob"))
    with refuses("undecryptable"):
        run(stored.store(), lambda store: store.get_refresh_token("bob"))
    assert unopened(stored, copied) == [("refresh_tokens", "encrypted_token", NOT_ACCEPTED)]
    introduce(stored.settings(KEY), fernet=True)
    assert copy(stored, copied).secrets == len(SECRETS) + 1
