"""Looking changes nothing, sees one moment, and calls damage by its name."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.inspect import (
    check_pages,
    look,
    look_without_recovery,
)
from nextcloud_mcp_server.migrate.classify import classify
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.schema.history import load_history
from tests.support import invariants
from tests.support.by_path import downgrade, prepare
from tests.support.contents import REFRESH_TOKENS
from tests.support.files import names
from tests.support.shapes import at


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where this test's database lies; nothing else is in its folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "tokens.db"


@pytest.mark.parametrize("mode", ["delete", "wal", "truncate", "persist"])
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_a_look_leaves_the_file_alone(mode: str, encoding: str, path: Path) -> None:
    """In every journal mode and encoding the structure is seen, and no byte or time changes."""
    at("006").write(path, [f"encoding='{encoding}'", f"journal_mode={mode}"])
    before = invariants.disk(path)
    seen = look(path)
    assert seen.versions == ("006",)
    assert seen.structure.own_tables == set(load_history().structure("006").tables)
    invariants.untouched(before, invariants.disk(path))


def test_what_is_only_in_the_wal_is_seen(path: Path) -> None:
    """A database whose newest rows are not in the file yet is read with them, and left so."""
    at("006").write(path, ["journal_mode=WAL"])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("UPDATE alembic_version SET version_num = '005'")
        crashed = path.with_name("crashed.db")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    before = invariants.disk(crashed)
    assert look(crashed).versions == ("005",)
    invariants.untouched(before, invariants.disk(crashed))


def test_nothing_is_seen_where_nothing_is(path: Path) -> None:
    """A missing and an empty file differ only in whether they exist; neither is made or opened."""
    nothing = look(path)
    assert names(path.parent) == set()
    path.touch()
    assert look(path) == nothing._replace(exists=True)
    assert classify(nothing, load_history()).state is State.NEW
    assert names(path.parent) == {"tokens.db"}


def test_a_look_sees_one_moment(path: Path) -> None:
    """While a database goes up and down, no look finds a version row that its tables deny."""
    at("006").write(path)
    prepare(path)
    history = load_history()
    stop = threading.Event()
    states: set[tuple[State, bool]] = set()

    def watch() -> None:
        while not stop.is_set():
            finding = classify(look_without_recovery(path), history)
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


def test_a_look_at_a_crashed_database_changes_nothing(path: Path) -> None:
    """Without the lock a hot journal is rolled back in a copy, and the copy is gone after."""
    at("006").write(path)
    code = (
        "import os, signal, sqlite3, sys; "
        "c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN'); "
        "c.execute('DELETE FROM audit_logs'); c.execute('DELETE FROM refresh_tokens'); "
        "c.execute('DROP TABLE browser_sessions'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    link = path.with_name("link.db")
    link.symlink_to(path)
    before = invariants.disk(path)
    temporary = names(Path(tempfile.gettempdir()))
    assert "browser_sessions" in look_without_recovery(path).structure.tables
    assert invariants.disk(path) == before
    left = names(Path(tempfile.gettempdir())) - temporary
    assert not {name for name in left if name.startswith("tokens-")}


def test_damage_is_found_page_by_page(path: Path) -> None:
    """A damaged page that a look does not read is found by the check, with what SQLite says."""
    at("006").write(path, ["page_size=512"])
    assert check_pages(path) == ""
    with closing(sqlite3.connect(path)) as connection:
        [(page,)] = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'audit_logs'"
        )
    raw = bytearray(path.read_bytes())
    raw[(page - 1) * 512 : page * 512] = b"\x55" * 512
    path.write_bytes(raw)
    assert look(path).damage == ""
    assert check_pages(path)


def test_encrypted_values_come_one_by_one(path: Path) -> None:
    """So many of each column as were asked for, or all; text becomes bytes, NULL is left out."""
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


def test_a_connection_to_read_cannot_write(path: Path) -> None:
    """What was opened to look refuses every statement that would change something."""
    at("006").write(path)
    with closing(connect_read_only(path)) as connection:
        for statement in ("DELETE FROM audit_logs", "CREATE TABLE x (a)", "PRAGMA user_version=9"):
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                connection.execute(statement)
