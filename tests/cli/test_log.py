"""`db log`."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.conftest import Db
from tests.cli.places import REFUSED, SERVED, execute, fingerprint, listing
from tests.support.revisions import HEAD

_NONE = " has no journal of migrations yet; it exists since revision 101\n"

#: States that cannot be read.
UNREADABLE = {"foreign", "corrupt", "truncated", "text", "dump"}


def test_the_journal_is_a_table(db: Db) -> None:
    """One line per change, newest first, with what was repaired on the line below."""
    db.put("narrow")
    db("upgrade")
    done = db("log")
    assert (done.status, done.err) == (0, "")
    head, repair, note, create = done.out.splitlines()
    assert head.split() == [*("when", "what", "from", "to", "seconds", "program", "host", "backup")]
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ"
    assert re.fullmatch(
        rf"{moment}  mend    {HEAD}   {HEAD}  \d\.\d\d .* tokens\.db\.backup-\S+", repair
    )
    assert note == "    added index idx_browser_sessions_user"
    assert re.fullmatch(rf"{moment}  create  -     {HEAD}  \d\.\d\d .* -", create)


def test_the_journal_as_json(db: Db) -> None:
    """With --json each entry has all of its facts."""
    db.put("at-head")
    document = json.loads(db("log", "--json").out)
    (entry,) = document.pop("entries")
    assert document == {"database": str(db.path), "exists": True, "journal": True}
    assert entry.pop("happened_at") > 1_700_000_000
    assert entry.pop("seconds") > 0
    assert entry.keys() == {
        *("action", "before", "after", "program_version", "host", "backup", "note")
    }
    assert (entry["action"], entry["before"], entry["after"]) == ("create", None, HEAD)


def test_the_newest_n(db: Db) -> None:
    """-n takes the number of newest entries, and rejects anything else."""
    db.put("at-head")
    db("downgrade", "101", "--yes")
    db("stamp", "010", "--yes")
    for option in (["-n", "1"], ["--lines=1"], ["-n1"]):
        document = json.loads(db("log", *option, "--json").out)
        assert [entry["action"] for entry in document["entries"]] == ["stamp"]
    for wrong in ("0", "-1", "x", ""):
        assert db("log", "-n", wrong).status == 2


@pytest.mark.parametrize("state", [*SERVED, *REFUSED])
def test_it_works_in_every_state(state: str, db: Db) -> None:
    """A journal is printed if the file can be read, otherwise an error; nothing changes."""
    db.put(state)
    before = (fingerprint(db.path), listing(db.path.parent))
    done = db("log")
    assert (fingerprint(db.path), listing(db.path.parent)) == before
    if state in UNREADABLE:
        document = json.loads(db("log", "--json").out)
        assert (done.status, document["error"]["code"]) == (1, REFUSED[state][0])
    elif state in {"at-head", "narrow", "untidy", *REFUSED}:
        assert (done.status, done.err) == (0, "")
        assert done.out.splitlines()[1].split()[2:5] == ["create", "-", HEAD]
    else:
        text = " does not exist yet\n" if state == "missing" else _NONE
        assert (done.status, done.out, done.err) == (0, f"{db.path}{text}", "")


def test_an_empty_journal_is_none_yet(db: Db) -> None:
    """A table that Alembic's own command line created has no rows."""
    execute(db.put("at-head"), "DELETE FROM migration_journal")
    done = db("log")
    assert (done.status, done.out) == (0, f"{db.path} has no journal of migrations yet\n")
    document = json.loads(db("log", "--json").out)
    assert (document["journal"], document["entries"]) == (True, [])


def test_control_characters_in_the_journal_are_escaped(db: Db) -> None:
    """Control characters in a row are escaped, and each row is one line."""
    values = "9, 9e15, char(27) || '[31m', NULL, NULL, 'x', char(10), 'h', NULL, char(27) || '[2J'"
    execute(db.put("at-head"), f"INSERT INTO migration_journal VALUES ({values})")
    done = db("log")
    assert (done.status, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) == 4
    assert db("log", "--json").status == 0
