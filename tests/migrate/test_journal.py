"""The journal of migrations: a row for each change, in the change's own transaction."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.journal import Entry
from tests.cli.places import execute, rows
from tests.support import invariants
from tests.support.by_path import downgrade, prepare, read_journal, stamp
from tests.support.errors import refuses
from tests.support.facts import HEAD
from tests.support.present import present
from tests.support.scripts import SCRIPTS, add_revision, sql_revision
from tests.support.shapes import at

#: The revision that creates the journal.
SINCE = "101"


def entries(path: Path) -> list[Entry]:
    """Return the journal, newest first, which must exist."""
    return present(read_journal(path))


def add_the_journal(own_scripts: Path) -> None:
    """Add the revision that creates the journal to a copy of the scripts up to 010."""
    (real,) = (SCRIPTS / "versions").glob(f"*_{SINCE}_*.py")
    (own_scripts / "versions" / real.name).write_text(real.read_text("utf-8"), "utf-8")


def changes(path: Path) -> list[tuple[str, str | None, str | None, str | None]]:
    """Return the action, the revisions and the note of each entry, newest first."""
    return [(e.action, e.before, e.after, e.note) for e in entries(path)]


def test_an_entry_describes_its_change(path: Path) -> None:
    """It has the time, duration, program, host and backup of the change."""
    at("009").write(path)
    begun = int(time.time())
    outcome = prepare(path)
    (entry,) = entries(path)
    assert (entry.action, entry.before, entry.after) == ("upgrade", "009", HEAD)
    assert begun <= present(entry.happened_at) <= time.time()
    assert 0 < present(entry.seconds) <= outcome.seconds
    assert (entry.program_version, entry.host) == (__version__, socket.gethostname())
    assert entry.backup == present(outcome.backup).name
    assert entry.note is None


def test_every_action_of_a_start_is_recorded(path: Path) -> None:
    """A creation, a stamp and both repairs have an entry each, with a note."""
    prepare(path)
    assert changes(path) == [("create", None, HEAD, None)]
    execute(path, "DROP INDEX idx_browser_sessions_user")
    prepare(path)
    assert changes(path)[0] == ("mend", HEAD, HEAD, "added index idx_browser_sessions_user")
    execute(path, "DELETE FROM alembic_version")
    prepare(path)
    assert changes(path)[0] == ("stamp", None, HEAD, f"stamped with {HEAD}")
    execute(path, "INSERT INTO alembic_version VALUES ('')")
    prepare(path)
    assert changes(path)[0] == ("mend", HEAD, HEAD, "put the version table in order")
    assert len(changes(path)) == 4


def test_a_start_with_nothing_to_do_adds_no_entry(path: Path) -> None:
    """At head the journal stays the same."""
    prepare(path)
    before = entries(path)
    prepare(path)
    assert entries(path) == before


def test_the_note_has_the_stamped_revision(path: Path) -> None:
    """A database without a version row has no revision before; the note has the stamp."""
    at("001").unversioned().write(path)
    prepare(path)
    assert changes(path) == [("stamp", None, HEAD, "stamped with 001")]


def test_a_stamp_is_recorded(path: Path) -> None:
    """`db stamp` adds an entry, also if it records no revision."""
    at(SINCE).write(path)
    before = len(entries(path))
    stamp(path, "010")
    stamp(path, "base")
    assert changes(path)[:2] == [("stamp", "010", None, None), ("stamp", SINCE, "010", None)]
    assert len(entries(path)) == before + 2


def test_below_101_there_is_no_journal(path: Path) -> None:
    """A downgrade drops the journal, and the next upgrade begins a new one."""
    at(HEAD).write(path)
    done = downgrade(path, "010")
    assert read_journal(path) is None
    assert len(entries(present(done.backup))) == 1, "the backup before it has the journal"
    prepare(path, target="010")
    assert read_journal(path) is None
    prepare(path)
    assert changes(path) == [("upgrade", "010", HEAD, None)]


def test_a_downgrade_that_keeps_the_journal_is_recorded(own_scripts: Path, path: Path) -> None:
    """A downgrade to a revision with the table adds an entry."""
    add_the_journal(own_scripts)
    add_revision(own_scripts, sql_revision("CREATE TABLE notes (a)"), "102", SINCE)
    prepare(path)
    downgrade(path, SINCE)
    assert changes(path)[0] == ("downgrade", "102", SINCE, None)


def test_a_failed_migration_has_no_entry(own_scripts: Path, path: Path) -> None:
    """The entry and the change share one transaction."""
    at(SINCE).write(path)
    add_the_journal(own_scripts)
    before = entries(path)
    add_revision(own_scripts, sql_revision("CREATE TABLE a (b)", "nonsense"), "102", SINCE)
    with pytest.raises(TokenStorageError, match="102"):
        prepare(path)
    assert entries(path) == before


def test_a_change_is_undone_if_its_entry_cannot_be_written(path: Path) -> None:
    """If the insert fails, the migration is undone with an error."""
    refuse = (
        "CREATE TRIGGER op BEFORE INSERT ON migration_journal BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    at(HEAD).also(refuse, "DROP INDEX idx_browser_sessions_user").write(path)
    with refuses("migration-failed", match="no"):
        prepare(path)
    assert ("idx_browser_sessions_user",) not in rows(path, "SELECT name FROM sqlite_master")


def test_a_journal_alone_is_not_backed_up(path: Path) -> None:
    """The downgrade of a database without other rows makes no backup."""
    prepare(path)
    assert downgrade(path).backup is None


def test_the_newest_come_first(path: Path) -> None:
    """Entries are sorted by id, not by time; ``limit`` keeps the newest."""
    at(HEAD).write(path)
    for number, clock in ((7, 99), (8, 1), (9, 50)):
        values = f"{number}, {clock}, 'n{number}', NULL, NULL, 0, 'v', 'h', NULL, NULL"
        execute(path, f"INSERT INTO migration_journal VALUES ({values})")
    assert [e.action for e in entries(path)] == ["n9", "n8", "n7", "upgrade"]
    assert [e.action for e in read_journal(path, 2) or ()] == ["n9", "n8"]


def test_rows_written_by_hand_are_read(path: Path) -> None:
    """A value of another type is converted, or None if it cannot be."""
    at(HEAD).write(path)
    execute(
        path,
        "INSERT INTO migration_journal VALUES (90, 'soon', x'ff', 1, 2.5, 9e999, 7, '', x'00', '')",
    )
    (entry, *_) = entries(path)
    assert (entry.happened_at, entry.seconds) == (None, None)
    assert (entry.before, entry.after, entry.program_version) == ("1", "2.5", "7")


def test_reading_changes_nothing(path: Path) -> None:
    """Reading keeps the file, its mode and times, and creates no file."""
    at(HEAD).write(path)
    with invariants.unchanged(path):
        assert read_journal(path)


@pytest.mark.parametrize("table", ["", "CREATE TABLE migration_journal (id INTEGER PRIMARY KEY)"])
def test_without_its_table_there_is_no_journal(table: str, path: Path) -> None:
    """A missing file, a missing table, and another table of the name have no journal."""
    assert read_journal(path) is None
    at("010").also(*filter(None, [table])).write(path)
    assert read_journal(path) is None
