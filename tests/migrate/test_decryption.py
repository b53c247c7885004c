"""A downgrade below 103: every secret goes back to what released versions read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import Connection, create_engine, text

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.key import is_v2
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.migrate import change
from nextcloud_mcp_server.migrate.change import Change
from nextcloud_mcp_server.migrate.startup import prepare
from nextcloud_mcp_server.settings import load_settings
from tests.support.contents import KEY, LATER, OTHER_KEY
from tests.support.errors import refused
from tests.support.postgresql import Server

NEW, OLD = KEY, OTHER_KEY
SESSION, PLAIN, CODE = "s" * 43, "p" * 43, "c" * 43

#: The encrypted columns of the rows that :func:`stored` stores, with the plaintext.
FERNET = {
    ("refresh_tokens", "encrypted_token"): "token-ü",
    ("app_passwords", "encrypted_password"): "password",
    ("oauth_clients", "encrypted_client_secret"): "secret",
    ("oauth_clients", "encrypted_registration_access_token"): "registration",
    ("login_flow_sessions", "encrypted_poll_token"): "poll",
}
PER_TABLE = {"app_passwords": 1, "login_flow_sessions": 1, "oauth_clients": 2, "refresh_tokens": 2}


class Place:
    """A database of one engine, with a connection that no store knows of."""

    def __init__(self, name: str) -> None:
        self.name = name
        url = name.replace("postgresql:", "postgresql+psycopg:")
        self._engine = create_engine(url if "://" in name else f"sqlite:///{name}")

    def run(self, sql: str, **values: Any) -> list[Any]:
        """Execute a statement; return its rows."""
        with self._engine.begin() as connection:
            return self._rows(connection, sql, values)

    def _rows(self, connection: Connection, sql: str, values: dict[str, Any]) -> list[Any]:
        result = connection.execute(text(sql), values)
        return [tuple(row) for row in result] if result.returns_rows else []

    def one(self, table: str, column: str) -> Any:
        """Return the value of the only row of a table; a text or bytes."""
        [(value,)] = self.run(f"SELECT {column} FROM {table}")
        return value

    def contents(self) -> dict[str, list[Any]]:
        """Return every row of the tables with secrets, and the revision."""
        tables = ("alembic_version", *PER_TABLE, "oauth_sessions", "browser_sessions", "keys")
        return {name: sorted(map(repr, self.run(f"SELECT * FROM {name}"))) for name in tables}

    def down(self, to: str = "102", *keys: str) -> Change:
        """Downgrade with some keys."""
        keyring = Keyring(keys) if keys else None
        database = connect(load_settings(database=self.name).database)
        return change.downgrade(database, to, keyring=keyring)

    def up(self) -> None:
        """Upgrade."""
        prepare(connect(load_settings(database=self.name).database))

    def close(self) -> None:
        """Close the connection."""
        self._engine.dispose()


def at_head(request: pytest.FixtureRequest) -> Place:
    """Return an empty database at head, of the engine that is the parameter of a fixture."""
    if request.param == "sqlite":
        return Place(str(request.getfixturevalue("token_db")))
    server: Server = request.getfixturevalue("postgresql_server")
    return Place(server.schema_at_head()[1])


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty database at head, of each engine."""
    found = at_head(request)
    yield found
    found.close()


async def store(place: Place, *keys: str) -> None:
    """Store a secret in each column, and sessions."""
    async with RefreshTokenStorage(place.name, encryption_key=list(keys)) as storage:
        await storage.store_refresh_token("alice", "token-ü")
        await storage.store_user_profile("alice", {"name": "Alice Ä"})
        await storage.app_passwords.store("alice", "password", server="https://nc.example.org")
        await storage.oauth_clients.store(
            "client",
            "secret",
            client_id_issued_at=1,
            client_secret_expires_at=LATER,
            redirect_uris=["http://localhost:1"],
            registration_access_token="registration",
        )
        await storage.login_flows.store("alice", "poll", "https://nc/poll", expires_at=LATER)
        await storage.oauth_sessions.create(
            SESSION, "http://localhost:2", expires_at=LATER, idp_access_token="idp", state="state"
        )
        await storage.browser_sessions.create(SESSION, "alice", expires_at=LATER)


@pytest.fixture
async def stored(place: Place) -> Place:
    """A database with a secret in each column, encrypted with the key NEW."""
    await store(place, NEW)
    return place


def released(place: Place, key: str = NEW) -> None:
    """Check that each secret is as released versions store it."""
    for (table, column), plaintext in FERNET.items():
        value = bytes(place.one(table, column))
        assert Fernet(key).decrypt(value).decode() == plaintext
    assert json.loads(place.one("refresh_tokens", "user_profile")) == {"name": "Alice Ä"}


def test_every_secret_is_as_released_versions_store_it(stored: Place) -> None:
    """Fernet with the given key, and plain text for a profile; in the types of the columns."""
    done = stored.down("010", NEW)
    released(stored)
    assert done.encrypted == PER_TABLE
    assert done.key == Keyring(NEW).fingerprints[0]


def test_sessions_of_hashed_ids_are_deleted_and_counted(stored: Place) -> None:
    """Only a hash of the id is there, so that the rows are of no use to a released version."""
    done = stored.down("102", NEW)
    assert done.deleted == {"browser_sessions": 1, "oauth_sessions": 1}
    assert stored.run("SELECT count(*) FROM oauth_sessions") == [(0,)]
    assert stored.run("SELECT count(*) FROM browser_sessions") == [(0,)]


async def test_a_session_with_its_own_id_stays(stored: Place) -> None:
    """A session of a released version keeps its id, and its tokens are decrypted."""
    stored.down("102", NEW)
    stored.run(
        "INSERT INTO oauth_sessions (session_id, client_redirect_uri, created_at, expires_at)"
        " VALUES (:id, 'http://localhost', 1, :later)",
        id=PLAIN,
        later=LATER,
    )
    stored.up()
    async with RefreshTokenStorage(stored.name, encryption_key=NEW) as storage:
        assert await storage.oauth_sessions.update(PLAIN, idp_access_token="idp")
    assert is_v2(stored.one("oauth_sessions", "idp_access_token").encode())
    done = stored.down("102", NEW)
    assert done.deleted == {}
    assert stored.run("SELECT session_id, idp_access_token FROM oauth_sessions") == [(PLAIN, "idp")]
    stored.up()
    async with RefreshTokenStorage(stored.name, encryption_key=NEW) as storage:
        assert await storage.oauth_sessions.update(PLAIN, mcp_authorization_code=CODE)
    # Without the code, the flow cannot go on.
    assert stored.down("102", NEW).deleted == {"oauth_sessions": 1}


@pytest.mark.parametrize(
    ("keys", "code"), [((), "key-missing"), ((OLD,), "wrong-key")], ids=["none", "another"]
)
def test_a_key_that_was_not_given_is_named(stored: Place, keys: tuple[str, ...], code: str) -> None:
    """The downgrade is refused with the fingerprint and the secrets, and changes nothing."""
    before = stored.contents()
    error = refused(lambda: stored.down("010", *keys))
    assert error.code == code
    assert f"needs key {Keyring(NEW).fingerprints[0]}, which was not given" in error.message
    assert "1 secret of app_passwords, 1 secret of login_flow_sessions" in error.message
    assert "2 secrets of oauth_clients, 2 secrets of refresh_tokens" in error.message
    assert stored.contents() == before


def test_a_secret_of_another_row_is_refused(stored: Place) -> None:
    """A text that was moved or changed is counted, and nothing changes."""
    stored.run("UPDATE app_passwords SET user_id = 'mallory'")
    before = stored.contents()
    error = refused(lambda: stored.down("010", NEW))
    assert error.code == "undecryptable"
    assert "1 secret of app_passwords cannot be" in error.message
    assert "db doctor" in error.remedy
    assert stored.contents() == before
    stored.run("DELETE FROM app_passwords")
    assert stored.down("010", NEW).encrypted == {
        table: number for table, number in PER_TABLE.items() if table != "app_passwords"
    }


@pytest.mark.parametrize("broken", ["v2.", "v2.!", "v2.AAAA"])
def test_a_secret_without_a_key_is_damaged(stored: Place, broken: str) -> None:
    """A text that is cut off names no key, and needs none."""
    for table in PER_TABLE:
        stored.run(f"DELETE FROM {table}")
    stored.run(
        "INSERT INTO refresh_tokens (user_id, encrypted_token, created_at, updated_at)"
        " VALUES ('u', :text, 1, 1)",
        text=broken.encode(),
    )
    error = refused(lambda: stored.down("102"))
    assert error.code == "undecryptable"
    assert "1 secret of refresh_tokens" in error.message


def test_what_a_released_version_encrypted_is_kept(stored: Place) -> None:
    """Fernet texts stay, also those that no key opens."""
    foreign = Fernet(OLD).encrypt(b"foreign")
    stored.run("UPDATE app_passwords SET encrypted_password = :text", text=foreign)
    assert "app_passwords" not in stored.down("102", NEW).encrypted
    assert bytes(stored.one("app_passwords", "encrypted_password")) == foreign


@pytest.mark.parametrize("to", ["102", "010", "base"])
def test_without_secrets_no_key_is_needed(place: Place, to: str) -> None:
    """A database in which nothing was stored goes down without a key."""
    done = place.down(to)
    assert (done.encrypted, done.deleted, done.key) == ({}, {}, None)


def test_to_base_no_key_is_needed(stored: Place) -> None:
    """All tables are dropped with their secrets."""
    assert stored.down("base").encrypted == {}


def test_secrets_of_dropped_tables_need_no_key(stored: Place) -> None:
    """Revision 002 has no flows: theirs are dropped, and the others are counted."""
    error = refused(lambda: stored.down("002"))
    assert "login_flow_sessions" not in error.message
    assert "login_flow_sessions" not in stored.down("002", NEW).encrypted


async def test_the_newest_key_encrypts_for_released_versions(stored: Place) -> None:
    """Of several keys the first one encrypts, which is the one that stays."""
    done = stored.down("102", OLD, NEW)
    released(stored, OLD)
    assert done.key == Keyring(OLD).fingerprints[0]


async def test_down_up_and_down_again(stored: Place) -> None:
    """The upgrade needs no key, everything can be read, and what is stored is bound again."""
    stored.down("102", NEW)
    stored.up()
    async with RefreshTokenStorage(stored.name, encryption_key=NEW) as storage:
        token = await storage.get_refresh_token("alice")
        assert token is not None
        assert token.token == "token-ü"
        assert await storage.get_user_profile("alice") == {"name": "Alice Ä"}
        await storage.store_refresh_token("alice", "token-ü")
        await storage.store_user_profile("alice", {"name": "Alice Ä"})
    assert is_v2(bytes(stored.one("refresh_tokens", "encrypted_token")))
    assert stored.down("010", NEW).encrypted == {"refresh_tokens": 2}
    released(stored)


def test_a_preview_counts_what_the_downgrade_does(stored: Place) -> None:
    """Before anybody agrees: the same numbers, and the same refusal for a key that is missing."""
    database = connect(load_settings(database=stored.name).database)
    error = refused(lambda: change.preview_downgrade(database, "102"))
    assert error.code == "key-missing"
    _, _, expected = change.preview_downgrade(database, "102", keyring=Keyring(NEW))
    done = stored.down("102", NEW)
    assert (expected.encrypted, expected.deleted) == (done.encrypted, done.deleted)
    assert expected.key == done.key


async def test_a_database_in_utf_16(path: Path) -> None:
    """In SQLite's other encodings a BLOB is found too, and so is a text in its place."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.execute("CREATE TABLE notes (text TEXT)")
        connection.execute("DROP TABLE notes")
    found = Place(str(path))
    await store(found, NEW)
    found.run(
        "UPDATE app_passwords SET encrypted_password = CAST(:text AS TEXT)",
        text=found.one("app_passwords", "encrypted_password").decode(),
    )
    assert found.one("app_passwords", "typeof(encrypted_password)") == "text"
    assert found.run("PRAGMA encoding") == [("UTF-16le",)]
    done = found.down("010", NEW)
    assert (done.encrypted, done.deleted) == (
        PER_TABLE,
        {"browser_sessions": 1, "oauth_sessions": 1},
    )
    released(found)
    found.close()
