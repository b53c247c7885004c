"""The journal of migrations: a row for each change, in the change's own transaction."""

from __future__ import annotations

import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.journal import Entry
from tests.support import invariants
from tests.support.by_path import downgrade, prepare, read_journal, stamp
from tests.support.facts import HEAD
from tests.support.scripts import SCRIPTS, add_revision, sql_revision
from tests.support.shapes import at

#: The revision that makes the journal.
SINCE = "101"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's database lies."""
    return tmp_path / "tokens.db"


def sql(path: Path, *statements: str) -> None:
    """Run statements in a database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def entries(path: Path) -> list[Entry]:
    """The journal, newest first; there must be one."""
    found = read_journal(path)
    assert found is not None
    return found


def add_the_journal(own_scripts: Path) -> None:
    """Add the revision that makes the journal to a copy of the scripts up to 010."""
    (real,) = (SCRIPTS / "versions").glob(f"*_{SINCE}_*.py")
    (own_scripts / "versions" / real.name).write_text(real.read_text("utf-8"), "utf-8")


def told(path: Path) -> list[tuple[str, str | None, str | None, str | None]]:
    """What was done, from where to where, and what is noted, newest first."""
    return [(e.action, e.before, e.after, e.note) for e in entries(path)]


def test_an_entry_says_who_did_what_when_and_how_long(path: Path) -> None:
    """Time, seconds, program, host and the name of the backup are those of the change."""
    at("009").write(path)
    begun = int(time.time())
    outcome = prepare(path)
    (entry,) = entries(path)
    assert (entry.action, entry.before, entry.after) == ("upgrade", "009", HEAD)
    assert entry.happened_at is not None
    assert begun <= entry.happened_at <= time.time()
    assert entry.seconds is not None
    assert 0 < entry.seconds <= outcome.seconds
    assert (entry.program_version, entry.host) == (__version__, socket.gethostname())
    assert outcome.backup is not None
    assert entry.backup == outcome.backup.name
    assert entry.note is None


def test_every_way_of_a_start_is_written_down(path: Path) -> None:
    """A creation, a stamp, an upgrade and a mending have an entry each, with their words."""
    prepare(path)
    assert told(path) == [("create", None, HEAD, None)]
    sql(path, "DROP INDEX idx_browser_sessions_user")
    prepare(path)
    assert told(path)[0] == ("mend", HEAD, HEAD, "added index idx_browser_sessions_user")
    sql(path, "DELETE FROM alembic_version")
    prepare(path)
    assert told(path)[0] == ("stamp", None, HEAD, f"stamped with {HEAD}")
    sql(path, "INSERT INTO alembic_version VALUES ('')")
    prepare(path)
    assert told(path)[0] == ("mend", HEAD, HEAD, "put the version table in order")
    assert len(told(path)) == 4


def test_a_start_with_nothing_to_do_writes_nothing(path: Path) -> None:
    """At head no row is added, whatever it costs to look."""
    prepare(path)
    before = entries(path)
    prepare(path)
    assert entries(path) == before


def test_a_database_from_before_migrations_records_what_it_was_stamped_with(path: Path) -> None:
    """Nothing was recorded before; the revision that it counted as stands in the note."""
    at("001").unversioned().write(path)
    prepare(path)
    assert told(path) == [("stamp", None, HEAD, "stamped with 001")]


def test_a_stamp_is_written_down_where_there_is_a_journal(path: Path) -> None:
    """`db stamp` has an entry, also one that records no revision at all."""
    at(HEAD).write(path)
    before = len(entries(path))
    stamp(path, "010")
    stamp(path, "base")
    assert told(path)[:2] == [("stamp", "010", None, None), ("stamp", HEAD, "010", None)]
    assert len(entries(path)) == before + 2


def test_below_101_there_is_nothing_to_write_into(path: Path) -> None:
    """A downgrade drops the journal, and the way up again begins a new one."""
    at(HEAD).write(path)
    done = downgrade(path, "010")
    assert read_journal(path) is None
    assert done.backup is not None
    assert len(entries(done.backup)) == 1, "the backup before it has the journal"
    prepare(path, target="010")
    assert read_journal(path) is None
    prepare(path)
    assert told(path) == [("upgrade", "010", HEAD, None)]


def test_a_downgrade_that_leaves_the_journal_is_written_down(own_scripts: Path, path: Path) -> None:
    """Going down to a revision that has the table adds a row to it."""
    add_the_journal(own_scripts)
    add_revision(own_scripts, sql_revision("CREATE TABLE notes (a)"), "102", SINCE)
    prepare(path)
    downgrade(path, SINCE)
    assert told(path)[0] == ("downgrade", "102", SINCE, None)


def test_a_migration_that_fails_leaves_no_row(own_scripts: Path, path: Path) -> None:
    """The row and the change share one transaction: neither is there without the other."""
    at(SINCE).write(path)
    add_the_journal(own_scripts)
    before = entries(path)
    add_revision(own_scripts, sql_revision("CREATE TABLE a (b)", "nonsense"), "102", SINCE)
    with pytest.raises(TokenStorageError, match="102"):
        prepare(path)
    assert entries(path) == before


def test_a_change_whose_row_cannot_be_written_is_undone(path: Path) -> None:
    """Where the journal refuses the row, the whole migration is rolled back, with a word."""
    refuse = (
        "CREATE TRIGGER op BEFORE INSERT ON migration_journal BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    at(HEAD).also(refuse, "DROP INDEX idx_browser_sessions_user").write(path)
    with pytest.raises(TokenStorageError, match="no") as error:
        prepare(path)
    assert error.value.code == "migration-failed"
    with closing(sqlite3.connect(path)) as connection:
        names = {n for (n,) in connection.execute("SELECT name FROM sqlite_master")}
    assert "idx_browser_sessions_user" not in names


def test_a_journal_alone_is_not_worth_a_backup(path: Path) -> None:
    """A database without a grant in it is taken down without a copy beside it."""
    prepare(path)
    assert downgrade(path).backup is None


def test_the_newest_come_first(path: Path) -> None:
    """By their ids, whatever the clock said; ``limit`` takes from the new end."""
    at(HEAD).write(path)
    for number, clock in ((7, 99), (8, 1), (9, 50)):
        values = f"{number}, {clock}, 'n{number}', NULL, NULL, 0, 'v', 'h', NULL, NULL"
        sql(path, f"INSERT INTO migration_journal VALUES ({values})")
    assert [e.action for e in entries(path)] == ["n9", "n8", "n7", "upgrade"]
    assert [e.action for e in read_journal(path, 2) or ()] == ["n9", "n8"]


def test_rows_written_by_hand_are_read(path: Path) -> None:
    """Values of any type are told as far as they can be, and are no error."""
    at(HEAD).write(path)
    sql(
        path,
        "INSERT INTO migration_journal VALUES (90, 'soon', x'ff', 1, 2.5, 9e999, 7, '', x'00', '')",
    )
    (entry, *_) = entries(path)
    assert (entry.happened_at, entry.seconds) == (None, None)
    assert (entry.before, entry.after, entry.program_version) == ("1", "2.5", "7")


def test_reading_changes_nothing(path: Path) -> None:
    """Not the file, its mode or times, and nothing is made beside it."""
    at(HEAD).write(path)
    before = invariants.disk(path)
    assert read_journal(path)
    invariants.untouched(before, invariants.disk(path))


@pytest.mark.parametrize("table", ["", "CREATE TABLE migration_journal (id INTEGER PRIMARY KEY)"])
def test_without_the_table_there_is_no_journal(table: str, path: Path) -> None:
    """No file, no table, and another application's table of the name have none."""
    assert read_journal(path) is None
    at("010").also(*filter(None, [table])).write(path)
    assert read_journal(path) is None
