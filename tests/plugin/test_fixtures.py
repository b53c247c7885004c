"""The fixtures, used as in any test: this suite has the plugin installed."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite.inspect import inspect_file
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.migrations import get_current_revision
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.structure import gaps
from nextcloud_mcp_server.secret import SecretDict
from nextcloud_mcp_server.settings import Settings, load_settings, variables
from nextcloud_mcp_server.settings.nextcloud import account_settings, nextcloud_settings
from nextcloud_mcp_server.settings.process import (
    listen_address,
    log_settings,
    status_token,
    trusted_proxies,
)
from nextcloud_mcp_server.testing.templates import Templates, TokenDbAt
from tests.cli.places import execute, rows
from tests.support.by_path import prepare
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import ALL, HEAD


def test_token_db_is_one_private_file_at_head(token_db: Path, tmp_path: Path) -> None:
    """The database is at head and in WAL mode, in one file that only its owner reads."""
    assert token_db == tmp_path / "tokens.db"
    assert names(tmp_path) == {"tokens.db"}
    assert stat.S_IMODE(token_db.stat().st_mode) == 0o600
    assert get_current_revision(token_db) == HEAD
    assert inspect_file(token_db).journal_mode == "wal"


def test_a_start_on_token_db_has_nothing_to_do(token_db: Path) -> None:
    """Opening the database migrates nothing and switches no mode."""
    before = token_db.read_bytes()
    assert prepare(token_db).action is Action.NOTHING
    assert token_db.read_bytes() == before


def test_every_revision_is_available(token_db_at: TokenDbAt) -> None:
    """Each revision, head and base are available, with their structure and version row."""
    for revision in ALL:
        path = token_db_at(revision)
        assert get_current_revision(path) == revision
        assert not gaps(inspect_file(path).structure, load_history().structure(revision))
    assert get_current_revision(token_db_at("head")) == HEAD
    base = token_db_at("base")
    assert get_current_revision(base) is None
    assert inspect_file(base).structure.own_tables == set()


def test_each_copy_is_its_own(token_db: Path, token_db_at: TokenDbAt) -> None:
    """A change of one copy is in no other copy, made before or after."""
    earlier = token_db_at("head")
    execute(token_db, "DELETE FROM alembic_version")
    later = token_db_at("head")
    assert len({token_db, earlier, later}) == 3
    assert get_current_revision(token_db) is None
    assert get_current_revision(earlier) == get_current_revision(later) == HEAD


def test_an_unknown_revision_is_refused(token_db_at: TokenDbAt, tmp_path: Path) -> None:
    """An unknown revision raises the program's own error, and leaves no file."""
    assert refused(lambda: token_db_at("999")).code == "unknown-revision"
    assert names(tmp_path) == set()


#: Every variable that the program reads, except for that of the colours.


def test_the_environment_points_at_the_test(
    token_environment: Mapping[str, str], tmp_path: Path, token_encryption_key: str
) -> None:
    """Every variable that the program reads is set for the test, or unset."""
    seen = {name: os.environ[name] for name in variables.ALL if name in os.environ}
    database = str(tmp_path / "tokens.db")
    assert seen == token_environment
    assert seen == {"TOKEN_STORAGE_DB": database, "TOKEN_ENCRYPTION_KEY": token_encryption_key}
    assert names(tmp_path) == set()


def test_no_variable_is_read_that_is_not_listed() -> None:
    """The fixture resets every variable that the settings read."""
    read = set()

    # Of the type that the readers of settings pass on without a copy.
    class Recording(SecretDict):
        def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
            read.add(name)
            return super().get(name, default)

    load_settings(Recording())
    assert read == set(variables.VARIABLES)
    read.clear()
    listen_address(Recording())
    log_settings(Recording())
    nextcloud_settings(Recording(NEXTCLOUD_HOST="https://x"), listening=("127.0.0.1", 1))
    status_token(Recording())
    trusted_proxies(Recording())
    assert read == set(variables.SERVER_VARIABLES)
    read.clear()
    account_settings(Recording())
    assert read == set(variables.ACCOUNT_VARIABLES)


def test_token_settings_name_the_database_and_the_key(
    token_settings: Settings, token_db: Path, token_encryption_key: str
) -> None:
    """The settings are those of the environment, with a shorter wait for the lock."""
    read = load_settings()
    assert (token_settings.database, read.database) == (token_db, token_db)
    assert token_settings.keys == read.keys == (token_encryption_key,)
    assert token_settings.lock_timeout < read.lock_timeout


@pytest.fixture
def _one_file_afterwards(tmp_path: Path) -> Iterator[None]:
    yield
    assert {name for name in names(tmp_path) if name.endswith(("-wal", "-shm"))} == set()


@pytest.mark.usefixtures("_one_file_afterwards")
async def test_token_storage_is_open_and_closed_afterwards(
    token_storage: RefreshTokenStorage, token_db: Path
) -> None:
    """The store writes a token to ``token_db``; after the test, there is no WAL."""
    await token_storage.store_refresh_token("alice", "secret")
    found = await token_storage.get_refresh_token("alice")
    assert found
    assert found.token == "secret"
    assert rows(token_db, "SELECT user_id FROM refresh_tokens") == [("alice",)]


_KILLED = """
import os, signal, sys
from pathlib import Path
from nextcloud_mcp_server.testing import templates

def prepare(database, *, target):
    database.path.write_bytes(b"incomplete")
    os.kill(os.getpid(), signal.SIGKILL)

templates.prepare = prepare
templates.Templates(Path(sys.argv[1])).copy("head", Path(sys.argv[1]) / "copy.db")
"""


def test_a_killed_worker_leaves_no_incomplete_template(tmp_path: Path) -> None:
    """If a worker is killed while it makes a template, the next one makes it again."""
    folder = tmp_path / "templates"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder)], check=False, timeout=60)
    assert killed.returncode == -9
    assert names(folder) == {"partial", "templates.lock"}

    copy = Templates(folder).copy("head", tmp_path / "copy.db")

    assert get_current_revision(copy) == HEAD
    assert names(folder) == {f"{HEAD}.db", "templates.lock"}
