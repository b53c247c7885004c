"""The census counts the secrets by key and table, and changes nothing."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet

from nextcloud_mcp_server.maintenance.keys.census import Unopened, count_secrets
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.places import execute
from tests.maintenance.keys.helpers import NEW, NEWEST, OLDER, given, grant
from tests.support import invariants
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refuses
from tests.support.revisions import HEAD
from tests.support.shapes import at


def test_each_key_has_its_number_by_table(tmp_path: Path) -> None:
    """Keys are named newest first; a key that opens nothing is listed too."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    grant(path, "new", Fernet(NEW).encrypt(b"new"))
    grant(path, "lost", Fernet(OTHER_KEY).encrypt(b"lost"))
    with invariants.unchanged(path):
        census = count_secrets(given(path, NEW, KEY))
    assert census.keys == (NEWEST, OLDER)
    assert census.by_table(NEWEST) == {"refresh_tokens": 1}
    assert census.by_table(OLDER).keys() == {
        "refresh_tokens",
        "app_passwords",
        "oauth_clients",
        "login_flow_sessions",
    }
    # A client has two secrets.
    assert census.by_table(OLDER)["oauth_clients"] == 2
    assert census.unopened == (Unopened("refresh_tokens", "encrypted_token", "lost"),)
    assert census.older == {OLDER: sum(census.by_table(OLDER).values())}


def test_without_a_key_every_secret_is_listed(tmp_path: Path) -> None:
    """A client is named by its id, a row without a key by its number; no key is created."""
    path = tmp_path / "tokens.db"
    at(HEAD).write(path)
    execute(path, "UPDATE login_flow_sessions SET user_id = CAST(x'ff' AS TEXT) WHERE rowid = 1")
    census = count_secrets(given(path)._replace(keys=()))
    assert (census.keys, census.opened) == ((), {})
    names = {(secret.table, secret.row) for secret in census.unopened}
    assert {("oauth_clients", "client-0001"), ("login_flow_sessions", "\udcff")} < names
    assert not path.with_name("tokens.db.key").exists()


def test_old_new_and_missing_databases_are_counted(tmp_path: Path) -> None:
    """No upgrade is needed to look, and a missing database holds no secret."""
    path = tmp_path / "tokens.db"
    assert count_secrets(given(path)).opened == {}
    assert list(tmp_path.iterdir()) == []
    upgrade_database(path, "001")
    grant(path, "alice")
    assert count_secrets(given(path)).opened == {(OLDER, "refresh_tokens"): 1}
    execute(path, "UPDATE alembic_version SET version_num = '999'")
    assert count_secrets(given(path)).opened == {(OLDER, "refresh_tokens"): 1}


def test_the_copy_of_an_interrupted_recreation_is_counted(tmp_path: Path) -> None:
    """A start renames it back, so its secrets need their key."""
    path = tmp_path / "tokens.db"
    at("009").write(path)
    before = count_secrets(given(path))
    grants = before.opened[OLDER, "refresh_tokens"]
    assert grants
    execute(path, "ALTER TABLE refresh_tokens RENAME TO _alembic_tmp_refresh_tokens")
    assert count_secrets(given(path)).opened == before.opened
    unopened = count_secrets(given(path)._replace(keys=())).unopened
    assert [secret.table for secret in unopened].count("refresh_tokens") == grants


def test_another_database_is_refused(tmp_path: Path) -> None:
    """A file without a table of secrets has the error of a start."""
    path = tmp_path / "tokens.db"
    execute(path, "CREATE TABLE songs (title TEXT)")
    with refuses("foreign"):
        count_secrets(given(path))
