"""The command lines that operators are given, typed as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nextcloud_mcp_server.migrations import get_current_revision
from nextcloud_mcp_server.schema.history import load_history
from tests.cli.places import Shelf, environment, rows
from tests.support.revisions import BEFORE, HEAD, NEWER

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the lines are bash's")

WITH_SQLITE = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not there")

MANUAL = """
# Show current database version
uv run nextcloud-mcp-server db current
# Upgrade database to latest version
uv run nextcloud-mcp-server db upgrade
# Show migration history
uv run nextcloud-mcp-server db history
# Downgrade by one version (emergency use only)
uv run nextcloud-mcp-server db downgrade
# Specify custom database path
uv run nextcloud-mcp-server db current -d /path/to/tokens.db
"""
TEST_MIGRATION = """
# Test upgrade
uv run nextcloud-mcp-server db upgrade -d /tmp/test.db
# Verify schema
sqlite3 /tmp/test.db ".schema"
# Test downgrade
uv run nextcloud-mcp-server db downgrade -d /tmp/test.db
# Verify removal
sqlite3 /tmp/test.db ".schema"
"""
TROUBLE = """
# Check current state
uv run nextcloud-mcp-server db current -d /path/to/tokens.db
# View migration history
uv run nextcloud-mcp-server db history -d /path/to/tokens.db
# Manually inspect database
sqlite3 /path/to/tokens.db ".schema"
"""
RESET = """
# Downgrade to base (empty database)
uv run nextcloud-mcp-server db downgrade -d /path/to/tokens.db --revision base
# Upgrade to latest
uv run nextcloud-mcp-server db upgrade -d /path/to/tokens.db
"""
CORRUPTED_STATE = """
# Manually fix via SQL
sqlite3 /path/to/tokens.db <<'.quit'
DELETE FROM alembic_version;
INSERT INTO alembic_version (version_num) VALUES ('001');
.quit
# Verify and upgrade
uv run nextcloud-mcp-server db current -d /path/to/tokens.db
uv run nextcloud-mcp-server db upgrade -d /path/to/tokens.db
"""
DEPLOYMENT = """
# Run migrations in test environment
export TOKEN_STORAGE_DB=/app/data/tokens.db
uv run nextcloud-mcp-server db upgrade
# Verify current version
uv run nextcloud-mcp-server db current
"""
ROLLBACK = """
cp /path/to/tokens.db /path/to/tokens.db.backup
uv run nextcloud-mcp-server db downgrade -d /path/to/tokens.db --revision 009
"""

_PLACES = re.compile(r"(?<=[ =])/(path/to|tmp|app/data)/")

#: `uv run COMMAND` is COMMAND in the project's environment, which these tests are in already.
UV = """#!/bin/sh
shift
exec "$@"
"""


def type_in(block: str, folder: Path, *, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Type a block as it stands; only the folders of its paths are the test's own."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    server = f'#!/bin/sh\nexec "{sys.executable}" -m nextcloud_mcp_server "$@"\n'
    for name, script in {"uv": UV, "nextcloud-mcp-server": server}.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    block = _PLACES.sub(f"{folder}/", block)
    environ = environment(folder, {"TOKEN_STORAGE_DB": str(folder / "tokens.db")})
    environ["PATH"] = f"{programs}:{environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=folder,
        env=environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_manual_commands(shelf: Shelf, tmp_path: Path) -> None:
    """Look, upgrade, list, go back one, look again."""
    path = shelf.put("behind", tmp_path / "tokens.db")
    done = type_in(MANUAL, tmp_path, stdin="y\n")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        f"database: {path} (from TOKEN_STORAGE_DB)",
        f"007 (behind; head is {HEAD})",
    ]
    assert lines[-2:] == [f"{BEFORE} (behind; head is {HEAD})", f"an upgrade runs {HEAD}"]


@WITH_SQLITE
def test_trying_a_migration(tmp_path: Path) -> None:
    """Up and down again on a database that may be lost, with a look at the schema between."""
    done = type_in(TEST_MIGRATION, tmp_path, stdin="y\n")
    assert done.returncode == 0, done.stderr
    before, after = done.stdout.split("downgraded ")
    history = load_history()
    tables = history.structure(HEAD).tables.keys() - history.structure(BEFORE).tables.keys()
    assert "CREATE TABLE refresh_tokens" in before
    for table in tables if HEAD in NEWER else ("migration_journal",):
        assert f"CREATE TABLE {table}" in before
        assert table not in after


@WITH_SQLITE
def test_looking_for_trouble(shelf: Shelf, tmp_path: Path) -> None:
    """The three looks of the troubleshooting section work on a database that is in order."""
    shelf.put("behind", tmp_path / "tokens.db")
    done = type_in(TROUBLE, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "007  2026-06-07  Add usage events (current)" in done.stdout


def test_resetting(shelf: Shelf, tmp_path: Path) -> None:
    """Down to base, where nothing is left, and up again."""
    path = shelf.put("at-head", tmp_path / "tokens.db")
    done = type_in(RESET, tmp_path, stdin="y\n")
    assert done.returncode == 0, done.stderr
    assert rows(path, "SELECT count(*) FROM refresh_tokens") == [(0,)]
    assert get_current_revision(path) == HEAD


@WITH_SQLITE
def test_mending_the_version_table_by_hand(shelf: Shelf, tmp_path: Path) -> None:
    """A version row set back by hand is upgraded over what is there already; rows stay."""
    path = shelf.put("two-rows", tmp_path / "tokens.db")
    done = type_in(CORRUPTED_STATE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"001 (behind; head is {HEAD})\n" in done.stdout
    assert f"upgraded {path} from 001 to {HEAD} (" in done.stdout
    assert rows(path, "SELECT user_id FROM refresh_tokens") == [("alice",)]


def test_deploying(tmp_path: Path) -> None:
    """A new database is made, and looked at through the same setting."""
    done = type_in(DEPLOYMENT, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{HEAD} (head)"


def test_rolling_back(shelf: Shelf, tmp_path: Path) -> None:
    """A copy after a clean stop holds every row, and the database goes back."""
    path = shelf.put("at-head", tmp_path / "tokens.db")
    done = type_in(ROLLBACK, tmp_path, stdin="y\n")
    assert done.returncode == 0, done.stderr
    copy = tmp_path / "tokens.db.backup"
    assert rows(copy, "SELECT user_id FROM refresh_tokens") == [("alice",)]
    assert get_current_revision(path) == "009"
