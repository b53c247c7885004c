"""An inspection changes nothing, reads one snapshot, and finds damage."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.inspect import inspect_file
from nextcloud_mcp_server.backends.sqlite.integrity import check_pages
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.schema.history import load_history
from tests.migrate.databases import crash_in_a_write
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.contents import REFRESH_TOKENS
from tests.support.files import flip, names
from tests.support.shapes import at


@pytest.mark.parametrize("mode", ["delete", "wal", "truncate", "persist"])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_an_inspection_changes_nothing(mode: str, encoding: str, path: Path) -> None:
    """In every journal mode and encoding the structure is read, and no byte or time changes."""
    at("006").write(path, [f"encoding='{encoding}'", f"journal_mode={mode}"])
    with invariants.unchanged(path):
        found = inspect_file(path)
        assert found.versions == ("006",)
        assert found.structure.own_tables == set(load_history().structure("006").tables)


def test_rows_in_the_wal_are_read(path: Path) -> None:
    """Rows that are only in the WAL are read, and stay there."""
    at("006").write(path, ["journal_mode=WAL"])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("UPDATE alembic_version SET version_num = '005'")
        crashed = path.with_name("crashed.db")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    with invariants.unchanged(crashed):
        assert inspect_file(crashed).versions == ("005",)


def test_a_missing_and_an_empty_file_have_nothing(path: Path) -> None:
    """They differ only in ``exists``; no file is created."""
    nothing = inspect_file(path)
    assert names(path.parent) == set()
    path.touch()
    assert inspect_file(path) == nothing._replace(exists=True)
    assert classify(nothing, load_history()).state is State.NEW
    assert names(path.parent) == {"tokens.db"}


def test_an_inspection_reads_one_snapshot(path: Path) -> None:
    """During upgrades and downgrades the version row always matches the tables."""
    at("006").write(path)
    prepare(path)
    history = load_history()
    stop = threading.Event()
    states: set[tuple[State, bool]] = set()

    def watch() -> None:
        while not stop.is_set():
            finding = classify(SqliteDatabase(path).inspect(), history)
            states.add((finding.state, bool(finding.gaps)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(6):
            downgrade(path, "001")
            prepare(path)
    finally:
        stop.set()
        watcher.join()
    assert states <= {(State.AT_HEAD, False), (State.BEHIND, False)}


def test_inspecting_a_crashed_database_changes_nothing(path: Path) -> None:
    """Without the lock a hot journal is rolled back in a copy, which is deleted."""
    at("006").write(path)
    crash_in_a_write(path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    before = invariants.disk(path)
    temporary = names(Path(tempfile.gettempdir()))
    assert "browser_sessions" in SqliteDatabase(path).inspect().structure.tables
    assert invariants.disk(path) == before
    left = names(Path(tempfile.gettempdir())) - temporary
    assert not {name for name in left if name.startswith("tokens-")}


def test_every_page_is_checked(path: Path) -> None:
    """Damage of a page that an inspection does not read is found by check_pages()."""
    at("006").write(path, ["page_size=512"])
    assert check_pages(path) == ""
    flip(path, "audit_logs")
    assert inspect_file(path).damage == ""
    assert check_pages(path)


def test_encrypted_values_are_bytes(path: Path) -> None:
    """At most ``limit`` of each column; text becomes bytes, NULL is left out."""
    at("006").also(
        "UPDATE refresh_tokens SET encrypted_token = CAST(encrypted_token AS TEXT)",
        "UPDATE oauth_clients SET encrypted_registration_access_token = NULL",
        "UPDATE app_passwords SET encrypted_password = CAST(x'ff' AS TEXT) WHERE user_id = 'dora'",
    ).write(path)
    columns = [
        ("refresh_tokens", "encrypted_token"),
        ("oauth_clients", "encrypted_registration_access_token"),
        ("app_passwords", "encrypted_password"),
    ]
    database = SqliteDatabase(path)
    found = list(database.samples(columns, None))
    assert len(found) == len(REFRESH_TOKENS) + 3
    assert all(isinstance(value, bytes) for value in found)
    assert len(list(database.samples(columns, 2))) == 4
    assert next(database.samples(columns, None)).startswith(b"gAAAA")


def test_a_read_only_connection_cannot_write(path: Path) -> None:
    """Every statement that changes something is refused."""
    at("006").write(path)
    with closing(connect_read_only(path)) as connection:
        for statement in ("DELETE FROM audit_logs", "CREATE TABLE x (a)", "PRAGMA user_version=9"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                connection.execute(statement)
