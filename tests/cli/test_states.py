"""What the commands that look say about a database in every state, word for word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.places import REFUSED, SERVED, Shelf, crash, damage, fingerprint, listing
from tests.support.files import names
from tests.support.revisions import HEAD, pending_after

RUNS = ", ".join(pending_after("001"))
LATER = ", ".join(pending_after("007"))
UNVERSIONED = (
    "unversioned (its tables are there, and no revision is recorded)\n"
    f"an upgrade stamps it with 001 and runs {RUNS}\n"
)

#: By state: what `db current` prints, and whether the database is ready.
CURRENT = {
    "at-head": (f"{HEAD} (head)\n", True),
    "behind": (f"007 (behind; head is {HEAD})\nan upgrade runs {LATER}\n", False),
    "pre-alembic": (UNVERSIONED, False),
    "no-version-row": (UNVERSIONED, False),
    "null-version-row": (UNVERSIONED, False),
    "narrow": (f"{HEAD} (head)\nan upgrade adds index idx_browser_sessions_user\n", False),
    "untidy": (f"{HEAD} (head)\nan upgrade puts the version table in order\n", False),
    "zero-bytes": (f"empty (there is no table in it)\nan upgrade creates it at {HEAD}\n", False),
    "missing": (f"missing (no file)\nan upgrade creates it at {HEAD}\n", False),
}

RESTORE = (
    "remedy: Stop every server, then: nextcloud-mcp-server db restore --newest -d {db} (it "
    "keeps the damaged file; nextcloud-mcp-server db backups --verify -d {db} lists which are "
    'good); without a backup try: sqlite3 {db} ".recover" | sqlite3 NEW.db\n'
)
POINT = (
    "remedy: Point TOKEN_STORAGE_DB or -d at the token database, or at a file that is not there "
    "yet.\n"
)
NEWER = (
    "error: {db} is newer than this program: it records %s, and the newest revision here is "
    f"{HEAD}. [unknown-revision]\n"
    "remedy: Start the release that wrote it, or go back with that release's own: "
    f"nextcloud-mcp-server db downgrade --revision {HEAD} -d {{db}}\n"
)

#: By state: what every command that looks prints on stderr.
REFUSALS = {
    "newer": NEWER % "999",
    "escape": NEWER % r"\x1b[2J\n",
    "nul": NEWER % r"101\x00",
    "two-rows": (
        f"error: {{db}} has no single revision: alembic_version holds 003 and {HEAD}. "
        "[ambiguous-version]\n"
        "remedy: Let the tables decide: nextcloud-mcp-server db repair -d {db} "
        "(or say which is true: nextcloud-mcp-server db stamp REVISION -d {db})\n"
    ),
    "no-grants": (
        "error: {db} is not what it says it is: the table refresh_tokens, which every release "
        "made, is not there. [inconsistent]\n"
        "remedy: Compare it with a backup, and restore one that is whole: nextcloud-mcp-server db "
        "restore --newest -d {db} (nextcloud-mcp-server db backups --verify -d {db} lists "
        "them); nothing was changed.\n"
    ),
    "foreign": (
        "error: {db} is another application's database: it holds songs, and no table of this "
        "program. [foreign]\n" + POINT
    ),
    "corrupt": "error: {db} is damaged: database disk image is malformed. [corrupt]\n" + RESTORE,
    "truncated": "error: {db} is damaged: database disk image is malformed. [corrupt]\n" + RESTORE,
    "text": "error: {db} is not an SQLite database: it has no SQLite header. [not-a-database]\n"
    + POINT,
    "dump": (
        "error: {db} is not an SQLite database: it looks like an SQL dump; load it with: "
        "sqlite3 NEW.db < {db}. [not-a-database]\n" + POINT
    ),
}


def test_every_state_is_told_apart() -> None:
    """No state that the tests can make is without its words."""
    assert CURRENT.keys() == SERVED.keys()
    assert REFUSALS.keys() == REFUSED.keys()


@pytest.mark.parametrize("state", SERVED)
def test_current_says_what_the_database_is(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """`db current` names the state and what an upgrade would do, and exits 0."""
    shelf.put(state, database)
    done = command("db", "current", "-d", str(database))
    assert (done.status, done.out, done.err) == (0, CURRENT[state][0], "")


@pytest.mark.parametrize("state", SERVED)
def test_check_exits_three_where_an_upgrade_is_pending(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """`db check` exits 0 where a start has nothing to do, and 3 where it has."""
    shelf.put(state, database)
    words, ready = CURRENT[state]
    done = command("db", "check", "-d", str(database))
    if ready:
        expected = (0, f"ready: {database} is at head, {HEAD}\n")
    else:
        expected = (3, f"pending: {database}: {words.splitlines()[1]}\n")
    assert (done.status, done.out, done.err) == (*expected, "")


@pytest.mark.parametrize("name", ["current", "check"])
@pytest.mark.parametrize("state", REFUSED)
def test_a_refused_state_is_told_with_its_remedy(
    name: str, state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """A database that no start may touch is an error with a remedy, and exit status 1."""
    shelf.put(state, database)
    done = command("db", name, "-d", str(database))
    assert (done.status, done.out) == (1, "")
    assert done.err == REFUSALS[state].format(db=database)


@pytest.mark.parametrize("name", ["current", "check", "history"])
@pytest.mark.parametrize("state", [*SERVED, *REFUSED])
def test_looking_changes_nothing(
    name: str, state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """A look leaves the bytes, the mode and the time of the file, and makes no other file."""
    shelf.put(state, database)
    if database.exists():
        database.chmod(0o640)
    before = (fingerprint(database), listing(database.parent))
    command("db", name, "-d", str(database))
    assert (fingerprint(database), listing(database.parent)) == before


def test_a_look_makes_no_folder(tmp_path: Path, command: Command) -> None:
    """A path in a folder that is not there yet is missing, and stays so."""
    path = tmp_path / "not" / "yet" / "tokens.db"
    done = command("db", "current", "-d", str(path))
    assert (done.status, done.out) == (0, CURRENT["missing"][0])
    assert listing(tmp_path) == []


def test_current_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """With --json the facts are one document, which a program can decide by."""
    shelf.put("pre-alembic", database)
    done = command("db", "current", "-d", str(database), "--json")
    assert done.err == ""
    assert json.loads(done.out) == {
        "database": str(database),
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


def test_json_tells_what_is_to_be_mended(shelf: Shelf, database: Path, command: Command) -> None:
    """`db check --json` exits 3 and names what a start would mend."""
    shelf.put("narrow", database)
    done = command("db", "check", "-d", str(database), "--json")
    document = json.loads(done.out)
    assert (done.status, document["ready"], document["pending"]) == (3, False, [])
    assert document["mends"] == ["adds index idx_browser_sessions_user"]


@pytest.mark.parametrize("state", REFUSED)
def test_a_refusal_as_json(state: str, shelf: Shelf, database: Path, command: Command) -> None:
    """With --json a refusal is one document with its code, and stderr is empty."""
    shelf.put(state, database)
    done = command("db", "current", "-d", str(database), "--json")
    assert (done.status, done.err) == (1, "")
    document = json.loads(done.out)
    assert document.keys() == {"error"}
    assert document["error"]["code"] == REFUSED[state][0]
    assert document["error"].keys() == {"code", "message", "remedy"}


def test_a_look_rolls_no_journal_back(shelf: Shelf, database: Path, command: Command) -> None:
    """What a crashed writer left is looked at in a copy, and stays as it is for the next start."""
    crash(shelf.put("at-head", database.with_name("live.db")), database)
    journal = database.with_name("tokens.db-journal")
    before = (fingerprint(database), fingerprint(journal), listing(database.parent))
    assert command("db", "current", "-d", str(database)).out == f"{HEAD} (head)\n"
    assert command("db", "check", "-d", str(database)).status == 0
    assert (fingerprint(database), fingerprint(journal), listing(database.parent)) == before


@pytest.mark.parametrize("look", ["current", "check", "doctor", "log"])
def test_a_look_leaves_what_every_reader_of_sqlite_leaves(
    look: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """Beside a stopped database in WAL mode: a `-shm` and an empty `-wal`, and no more."""
    before = fingerprint(shelf.put("at-head", database))
    command("db", look, "-d", str(database))
    wal, shm = f"{database.name}-wal", f"{database.name}-shm"
    assert (fingerprint(database), names(database.parent)) == (before, {database.name, wal, shm})
    assert database.with_name(wal).stat().st_size == 0


def test_pages_are_checked_before_a_migration_and_by_the_doctor(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """A damaged page that a start at head does not read is no refusal; before a migration it is."""
    damage(shelf.put("at-head", database), "audit_logs")
    before = fingerprint(database)
    assert "nothing to do" in command("db", "upgrade", "-d", str(database)).out
    for words in (("doctor", "--full"), ("doctor",), ("backup",)):
        told = command("db", *words, "-d", str(database))
        assert (told.status, "malformed" in told.out + told.err) == (1, True)
    assert fingerprint(database) == before

    old = damage(shelf.put("behind", database.with_name("old.db")), "audit_logs")
    before = fingerprint(old)
    refused = command("db", "upgrade", "-d", str(old), "--json")
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (1, "corrupt")
    assert fingerprint(old) == before
