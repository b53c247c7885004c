"""`db current` and `db check` for a database in every state."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.conftest import Command, Db
from tests.cli.places import (
    REFUSED,
    SERVED,
    Shelf,
    crash,
    damage,
    execute,
    fingerprint,
    listing,
    replace_lock,
)
from tests.migrate.test_usable import UNUSABLE
from tests.support.files import names
from tests.support.revisions import HEAD, NEXT_ID, pending_after

RUNS = ", ".join(pending_after("001"))
LATER = ", ".join(pending_after("007"))
UNVERSIONED = (
    "pre-alembic (it has tables but no recorded revision)\n"
    f"an upgrade stamps it with 001 and runs {RUNS}\n"
)

#: By state: what `db current` prints, and whether the database is ready.
CURRENT = {
    "at-head": (f"{HEAD} (at-head)\n", True),
    "behind": (f"007 (behind; head is {HEAD})\nan upgrade runs {LATER}\n", False),
    "pre-alembic": (UNVERSIONED, False),
    "no-version-row": (UNVERSIONED, False),
    "null-version-row": (UNVERSIONED, False),
    "narrow": (f"{HEAD} (at-head)\nan upgrade adds index idx_browser_sessions_user\n", False),
    "untidy": (f"{HEAD} (at-head)\nan upgrade puts the version table in order\n", False),
    "zero-bytes": (f"new (it has no tables)\nan upgrade creates it at {HEAD}\n", False),
    "missing": (f"new (no file)\nan upgrade creates it at {HEAD}\n", False),
}

#: By state: the reason in the error; tests/errors.txt has the rest of the text.
REASONS = {
    "newer": "it records 999",
    "escape": r"it records \x1b[2J\n",
    "nul": r"it records 999\x00",
    "two-rows": f"alembic_version holds 003 and {HEAD}",
    "no-grants": "the table refresh_tokens, which every release made, is not there",
    "foreign": "it holds songs, and no table of this program",
    "corrupt": "database disk image is malformed",
    "truncated": "database disk image is malformed",
    "text": "it has no SQLite header",
    "dump": "it looks like an SQL dump; load it with: sqlite3 NEW.db < {db}",
}


@pytest.mark.parametrize("state", SERVED)
def test_a_state_has_one_name(state: str, db: Db) -> None:
    """The text of `db current` and of `db doctor` has the word that --json has as `state`."""
    db.put(state)
    word = json.loads(db("current", "--json").out)["state"]
    assert re.search(rf"\b{word}\b", db("current").out.splitlines()[0])
    [line] = [line for line in db("doctor").out.splitlines() if line[9:].startswith("state: ")]
    assert re.match(rf"\w+ +state: {word}\b", line)


def test_current_says_that_the_folder_does_not_exist(db: Db, command: Command) -> None:
    """An upgrade creates it too; `db current` does not."""
    folder = db.path.parent / "nowhere"
    done = command("db", "current", "-d", str(folder / "tokens.db"))
    assert done.out.splitlines()[0] == "new (no file, no folder: both are created)"
    assert not folder.exists()
    assert command("db", "upgrade", "-d", str(folder / "tokens.db")).status == 0
    assert (folder / "tokens.db").is_file()


@pytest.mark.parametrize("state", SERVED)
def test_current_prints_what_the_database_is(state: str, db: Db) -> None:
    """`db current` prints the state and what an upgrade does; `db check` exits 0 or 3."""
    db.put(state)
    lines, ready = CURRENT[state]
    done = db("current")
    assert (done.status, done.out, done.err) == (0, lines, "")
    if ready:
        expected = (0, f"ready: {db.path} is at head, {HEAD}\n")
    else:
        expected = (3, f"pending: {db.path}: {lines.splitlines()[1]}\n")
    done = db("check")
    assert (done.status, done.out, done.err) == (*expected, "")


@pytest.mark.parametrize(
    ("recorded", "text", "remedy"),
    [
        ("011", "of another line of releases", "db downgrade --revision 010 -d"),
        ("099", "of another line of releases", "db downgrade --revision 010 -d"),
        ("ae1027a6acf", "of another line of releases", "db downgrade --revision REVISION -d"),
        (NEXT_ID, "newer than this program", f"db downgrade --revision {HEAD} -d"),
        ("1000", "newer than this program", f"db downgrade --revision {HEAD} -d"),
    ],
)
def test_an_unknown_revision_is_newer_or_of_another_line(
    recorded: str, text: str, remedy: str, db: Db
) -> None:
    """An unknown id below head is no newer revision; the remedy names one that both have."""
    execute(db.put("at-head"), f"UPDATE alembic_version SET version_num = '{recorded}'")
    done = db("current")
    assert f"{db.path} is {text}: it records {recorded}, " in done.err
    assert done.err.splitlines()[0].endswith("[unknown-revision]")
    assert remedy in done.err.splitlines()[1]


@pytest.mark.parametrize("name", ["current", "check"])
@pytest.mark.parametrize("state", REFUSED)
def test_a_refused_state_is_an_error(name: str, state: str, db: Db) -> None:
    """The error is printed with its reason, code and remedy, or as JSON; the exit status is 1."""
    db.put(state)
    done = db(name)
    assert (done.status, done.out) == (1, "")
    error, remedy = done.err.splitlines()
    assert error.startswith(f"error: {db.path} ")
    reason, code = REASONS[state].format(db=db.path), REFUSED[state][0]
    assert f": {reason}" in error
    assert error.endswith(f". [{code}]")
    done = db(name, "--json")
    assert (done.status, done.err) == (1, "")
    facts = json.loads(done.out)["error"]
    assert facts.keys() == {"code", "message", "remedy"}
    assert (facts["code"], f"remedy: {facts['remedy']}") == (code, remedy)


@pytest.mark.parametrize("name", ["current", "check", "history"])
@pytest.mark.parametrize("state", [*SERVED, *REFUSED])
def test_inspecting_changes_nothing(name: str, state: str, db: Db) -> None:
    """The bytes, mode and times of the file stay the same, and no other file is created."""
    db.put(state)
    if db.path.exists():
        db.path.chmod(0o640)
    before = (fingerprint(db.path), listing(db.path.parent))
    db(name)
    assert (fingerprint(db.path), listing(db.path.parent)) == before


def test_current_as_json(db: Db) -> None:
    """With --json the result is one document."""
    db.put("pre-alembic")
    done = db("current", "--json")
    assert done.err == ""
    assert json.loads(done.out) == {
        "database": str(db.path),
        "exists": True,
        "state": "pre-alembic",
        "reason": "it has no recorded revision and the tables of 001",
        "revision": None,
        "head": HEAD,
        "ready": False,
        "stamp": "001",
        "pending": RUNS.split(", "),
        "mends": [],
        "journal_mode": "wal",
    }
    db.put("narrow")
    done = db("check", "--json")
    document = json.loads(done.out)
    assert (done.status, document["ready"], document["pending"]) == (3, False, [])
    assert document["mends"] == ["adds index idx_browser_sessions_user"]


def test_a_hot_journal_is_not_rolled_back(shelf: Shelf, db: Db) -> None:
    """A crashed writer's journal is rolled back in a copy only, and stays for the next start."""
    crash(shelf.put("at-head", db.path.with_name("live.db")), db.path)
    journal = db.path.with_name("tokens.db-journal")
    before = (fingerprint(db.path), fingerprint(journal), listing(db.path.parent))
    assert db("current").out == f"{HEAD} (at-head)\n"
    assert db("check").status == 0
    done = db("log")
    assert (done.status, done.out.splitlines()[1].split()[2]) == (0, "create")
    assert (fingerprint(db.path), fingerprint(journal), listing(db.path.parent)) == before


@pytest.mark.parametrize("name", ["current", "check", "doctor", "log"])
def test_a_wal_database_gets_only_the_files_of_sqlite(name: str, db: Db) -> None:
    """Beside a stopped database in WAL mode only a `-shm` and an empty `-wal` are created."""
    before = fingerprint(db.put("at-head"))
    db(name)
    wal, shm = f"{db.path.name}-wal", f"{db.path.name}-shm"
    assert (fingerprint(db.path), names(db.path.parent)) == (before, {db.path.name, wal, shm})
    assert db.path.with_name(wal).stat().st_size == 0


def test_pages_are_checked_before_a_migration_and_by_the_doctor(
    shelf: Shelf, db: Db, command: Command
) -> None:
    """A damaged page stops a migration, a backup and the doctor, but not a start at head."""
    damage(db.put("at-head"), "audit_logs")
    before = fingerprint(db.path)
    assert "nothing to do" in db("upgrade").out
    for arguments in (("doctor", "--full"), ("doctor",), ("backup",)):
        done = db(*arguments)
        assert (done.status, "malformed" in done.out + done.err) == (1, True)
    assert fingerprint(db.path) == before

    old = damage(shelf.put("behind", db.path.with_name("old.db")), "audit_logs")
    before = fingerprint(old)
    refused = command("db", "upgrade", "-d", str(old), "--json")
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (1, "corrupt")
    assert fingerprint(old) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("check",),
        ("current",),
        ("upgrade", "--dry-run"),
        ("downgrade", "--dry-run"),
        ("downgrade",),
        ("stamp", HEAD),
        ("repair",),
        ("upgrade",),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["text", "folder", "link", "pipe"])
def test_another_file_in_the_place_of_the_lock_is_refused(
    kind: str, arguments: tuple[str, ...], db: Db
) -> None:
    """What a start refuses is neither ready nor rehearsed, and nobody is asked about it."""
    path = db.put("at-head")
    lock, what = replace_lock(kind, path)
    before = fingerprint(path), listing(path.parent)
    done = db(*arguments)
    assert done.status == 1, done.out
    first, remedy = done.err.splitlines()
    assert first == f"error: {lock} should be the lock of {path}, and {what}. [bad-path]"
    assert remedy.endswith(f"then try again: mv {lock} {lock}.moved")
    assert (fingerprint(path), listing(path.parent)) == before


@pytest.mark.parametrize("name", ["no rowid", "a reference to no key"])
def test_a_table_that_no_start_accepts_is_not_ready(name: str, db: Db) -> None:
    """`db check` and `db current` refuse what a start refuses, and change nothing."""
    statements, reason = UNUSABLE[name]
    path = db.put("at-head")
    execute(path, *statements)
    before = fingerprint(path)
    for command in ("check", "current"):
        done = db(command)
        assert (done.status, reason in done.err) == (1, True), done.err
    assert fingerprint(path) == before
