"""The census counts the secrets by key and table, and changes nothing."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.maintenance.keys.census import Census, Unopened, count_secrets
from nextcloud_mcp_server.maintenance.keys.rotate import rotate
from nextcloud_mcp_server.maintenance.keys.values import CHANGED, NO_KEY
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.places import execute
from tests.maintenance.keys.helpers import NEW, NEWEST, OLDER, given, grant
from tests.support import invariants
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses
from tests.support.revisions import HEAD
from tests.support.shapes import at


def test_each_key_has_its_number_by_table(tmp_path: Path) -> None:
    """A given key that opens nothing is listed too; values in plain text have their numbers."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    grant(path, "new", Fernet(NEW).encrypt(b"new"))
    grant(path, "lost", Fernet(OTHER_KEY).encrypt(b"lost"))
    with invariants.unchanged(path):
        census = count_secrets(given(path, NEW, KEY))
    assert census.given == (NEWEST, OLDER)
    assert [(key.fingerprint, key.kind, key.state, key.given) for key in census.keys] == [
        (NEWEST, "v2", None, True),
        (OLDER, "v2", None, True),
        (OLDER, "fernet", None, True),
        (NEWEST, "fernet", None, True),
    ]
    older, newest = numbers(census, OLDER, "fernet"), numbers(census, NEWEST, "fernet")
    assert newest == {"refresh_tokens": 1}
    assert older.keys() == ENCRYPTED_TABLES
    # A client has two secrets.
    assert older["oauth_clients"] == 2
    assert census.unopened == (Unopened("refresh_tokens", "encrypted_token", "lost", NO_KEY),)
    assert census.plain["oauth_sessions", "session_id"] == 3
    assert census.plain["refresh_tokens", "user_profile"] == 1
    assert sum(census.pending.values()) == sum(older.values()) + 1 + sum(census.plain.values())


ENCRYPTED_TABLES = {"refresh_tokens", "app_passwords", "oauth_clients", "login_flow_sessions"}


def numbers(census: Census, fingerprint: str, kind: str) -> dict[str, int]:
    """Return the number of secrets of a key, by table."""
    [key] = [key for key in census.keys if (key.fingerprint, key.kind) == (fingerprint, kind)]
    return census.by_table(key)


def test_the_texts_of_a_key_that_was_not_given_are_counted(tmp_path: Path) -> None:
    """By the id in them: its fingerprint is in the database. One of an unknown key has its id."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    rotate(given(path, NEW, KEY))
    unknown = Keyring(OTHER_KEY).keys[0]
    grant(path, "unknown", unknown.seal(b"x", b""))
    census = count_secrets(given(path, KEY))
    [key] = [key for key in census.keys if key.state == "primary"]
    assert (key.fingerprint, key.given) == (NEWEST, False)
    assert census.by_table(key).keys() >= ENCRYPTED_TABLES
    assert numbers(census, unknown.id, "v2") == {"refresh_tokens": 1}
    assert {value.reason for value in census.unopened} == {NO_KEY}


def test_a_text_that_was_moved_or_damaged_has_a_reason_of_its_own(tmp_path: Path) -> None:
    """Its key is there: the row is not the one that it was encrypted for, or a byte differs."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    rotate(given(path, KEY))
    execute(
        path,
        "UPDATE refresh_tokens SET encrypted_token = (SELECT encrypted_token FROM refresh_tokens "
        "WHERE user_id = 'alice') WHERE user_id = 'carol'",
    )
    execute(path, "UPDATE app_passwords SET encrypted_password = 'v2.AA' WHERE user_id = 'dora'")
    assert count_secrets(given(path, KEY)).unopened == (
        Unopened("refresh_tokens", "encrypted_token", "carol", CHANGED),
        Unopened("app_passwords", "encrypted_password", "dora", CHANGED),
    )


def test_without_a_key_every_secret_is_listed(tmp_path: Path) -> None:
    """A client is named by its id, a row without a key by its number; no key is created."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    execute(path, "UPDATE login_flow_sessions SET user_id = CAST(x'ff' AS TEXT) WHERE rowid = 1")
    census = count_secrets(given(path)._replace(keys=()))
    assert (census.given, census.secrets) == ((), {})
    names = {(secret.table, secret.row) for secret in census.unopened}
    assert {("oauth_clients", "client-0001"), ("login_flow_sessions", "\udcff")} < names
    assert not path.with_name("tokens.db.key").exists()


def test_old_new_and_missing_databases_are_counted(tmp_path: Path) -> None:
    """No upgrade is needed to look, and a missing database holds no secret."""
    path = tmp_path / "tokens.db"
    assert count_secrets(given(path)).secrets == {}
    assert list(tmp_path.iterdir()) == []
    upgrade_database(path, "001")
    grant(path, "alice")
    counted = {("fernet", OLDER, "refresh_tokens"): 1}
    assert count_secrets(given(path)).secrets == counted
    execute(path, "UPDATE alembic_version SET version_num = '999'")
    assert count_secrets(given(path)).secrets == counted


def test_the_copy_of_an_interrupted_recreation_is_counted(tmp_path: Path) -> None:
    """A start renames it back, so its secrets need their key."""
    path = tmp_path / "tokens.db"
    at("009").write(path)
    before = count_secrets(given(path))
    grants = before.secrets["fernet", OLDER, "refresh_tokens"]
    assert grants
    execute(path, "ALTER TABLE refresh_tokens RENAME TO _alembic_tmp_refresh_tokens")
    assert count_secrets(given(path)).secrets == before.secrets
    unopened = count_secrets(given(path)._replace(keys=())).unopened
    assert [secret.table for secret in unopened].count("refresh_tokens") == grants


def test_another_database_is_refused(tmp_path: Path) -> None:
    """A file without a table of secrets has the error of a start."""
    path = tmp_path / "tokens.db"
    execute(path, "CREATE TABLE songs (title TEXT)")
    with refuses("foreign"):
        count_secrets(given(path))
