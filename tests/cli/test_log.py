"""`db log`: the journal of migrations, on a database in any state."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.places import REFUSED, SERVED, Shelf, crash, execute, fingerprint, listing
from tests.support.revisions import HEAD

_NONE = " has no journal of migrations yet; it is kept since revision 101\n"

#: States of which nothing can be read.
UNREADABLE = {"foreign", "corrupt", "truncated", "text", "dump"}


def test_the_journal_is_a_table(shelf: Shelf, database: Path, command: Command) -> None:
    """Newest first, one line each, with what was mended below it."""
    shelf.put("narrow", database)
    command("db", "upgrade", "-d", str(database))
    done = command("db", "log", "-d", str(database))
    assert (done.status, done.err) == (0, "")
    head, mend, note, create = done.out.splitlines()
    assert head.split() == [
        *("when", "(UTC)", "what", "from", "to", "seconds", "program", "host", "backup")
    ]
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf"{moment}  mend    {HEAD}   {HEAD}  \d\.\d\d .* tokens\.db\.backup-\S+", mend
    )
    assert note == "    added index idx_browser_sessions_user"
    assert re.fullmatch(rf"{moment}  create  -     {HEAD}  \d\.\d\d .* -", create)


def test_the_journal_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """Each entry is told with all that is known of it."""
    shelf.put("at-head", database)
    done = command("db", "log", "-d", str(database), "--json")
    document = json.loads(done.out)
    (entry,) = document.pop("entries")
    assert document == {"database": str(database), "exists": True, "journal": True}
    assert entry.pop("happened_at") > 1_700_000_000
    assert entry.pop("seconds") > 0
    assert entry.keys() == {
        *("action", "before", "after", "program_version", "host", "backup", "note")
    }
    assert (entry["action"], entry["before"], entry["after"]) == ("create", None, HEAD)


def test_the_newest_n(shelf: Shelf, database: Path, command: Command) -> None:
    """-n takes that many from the new end, and nothing that is no number of lines."""
    shelf.put("at-head", database)
    command("db", "stamp", "010", "-d", str(database))
    for option in (["-n", "1"], ["--lines=1"], ["-n1"]):
        document = json.loads(command("db", "log", *option, "--json", "-d", str(database)).out)
        assert [entry["action"] for entry in document["entries"]] == ["stamp"]
    for wrong in ("0", "-1", "x", ""):
        assert command("db", "log", "-n", wrong, "-d", str(database)).status == 2


@pytest.mark.parametrize("state", [*SERVED, *REFUSED])
def test_it_works_in_every_state(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """What can be read is told; what cannot is refused with its code; nothing changes."""
    shelf.put(state, database)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "log", "-d", str(database))
    assert (fingerprint(database), listing(database.parent)) == before
    if state in UNREADABLE:
        document = json.loads(command("db", "log", "-d", str(database), "--json").out)
        assert (done.status, document["error"]["code"]) == (1, REFUSED[state][0])
    elif state in {"at-head", "narrow", "untidy", *REFUSED}:
        assert (done.status, done.err) == (0, "")
        assert done.out.splitlines()[1].split()[2:5] == ["create", "-", HEAD]
    else:
        said = " is not there yet\n" if state == "missing" else _NONE
        assert (done.status, done.out, done.err) == (0, f"{database}{said}", "")


def test_an_empty_journal_is_none_yet(shelf: Shelf, database: Path, command: Command) -> None:
    """Where Alembic's own command line made the table, it has no row."""
    execute(shelf.put("at-head", database), "DELETE FROM migration_journal")
    done = command("db", "log", "-d", str(database))
    assert (done.status, done.out) == (0, f"{database} has no journal of migrations yet\n")
    document = json.loads(command("db", "log", "-d", str(database), "--json").out)
    assert (document["journal"], document["entries"]) == (True, [])


def test_a_missing_file_is_answered_as_by_the_other_looks(database: Path, command: Command) -> None:
    """No file is no error for what looks: it says so and exits 0, or 3 from `db check`."""
    for words, status in ((("log",), 0), (("current",), 0), (("check",), 3)):
        done = command("db", *words, "-d", str(database), "--json")
        assert (done.status, json.loads(done.out)["exists"]) == (status, False)


def test_what_a_crash_left_is_read_and_stays(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """A hot journal is rolled back in a copy only."""
    crash(shelf.put("at-head", database.with_name("live.db")), database)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "log", "-d", str(database))
    assert (done.status, done.out.splitlines()[1].split()[2]) == (0, "create")
    assert (fingerprint(database), listing(database.parent)) == before


def test_no_terminal_obeys_a_journal(shelf: Shelf, database: Path, command: Command) -> None:
    """Whatever somebody has written into a row is printed as text, on its own line."""
    values = "9, 9e15, char(27) || '[31m', NULL, NULL, 'x', char(10), 'h', NULL, char(27) || '[2J'"
    execute(shelf.put("at-head", database), f"INSERT INTO migration_journal VALUES ({values})")
    done = command("db", "log", "-d", str(database))
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) == 4
    assert command("db", "log", "--json", "-d", str(database)).status == 0
