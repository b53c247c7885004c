"""`db current` and `db check` for a database in every state."""

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
    "unversioned (it has tables but no recorded revision)\n"
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
    "zero-bytes": (f"empty (it has no tables)\nan upgrade creates it at {HEAD}\n", False),
    "missing": (f"missing (no file)\nan upgrade creates it at {HEAD}\n", False),
}

#: By state: the reason in the error; tests/errors.txt has the rest of the text.
REASONS = {
    "newer": "it records 999",
    "escape": r"it records \x1b[2J\n",
    "nul": r"it records 101\x00",
    "two-rows": f"alembic_version holds 003 and {HEAD}",
    "no-grants": "the table refresh_tokens, which every release made, is not there",
    "foreign": "it holds songs, and no table of this program",
    "corrupt": "database disk image is malformed",
    "truncated": "database disk image is malformed",
    "text": "it has no SQLite header",
    "dump": "it looks like an SQL dump; load it with: sqlite3 NEW.db < {db}",
}


@pytest.mark.parametrize("state", SERVED)
def test_current_says_what_the_database_is(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """`db current` prints the state and what an upgrade does; `db check` exits 0 or 3."""
    shelf.put(state, database)
    lines, ready = CURRENT[state]
    done = command("db", "current", "-d", str(database))
    assert (done.status, done.out, done.err) == (0, lines, "")
    if ready:
        expected = (0, f"ready: {database} is at head, {HEAD}\n")
    else:
        expected = (3, f"pending: {database}: {lines.splitlines()[1]}\n")
    done = command("db", "check", "-d", str(database))
    assert (done.status, done.out, done.err) == (*expected, "")


@pytest.mark.parametrize("name", ["current", "check"])
@pytest.mark.parametrize("state", REFUSED)
def test_a_refused_state_is_an_error(
    name: str, state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """The error is printed with its reason, code and remedy, or as JSON; the exit status is 1."""
    shelf.put(state, database)
    done = command("db", name, "-d", str(database))
    assert (done.status, done.out) == (1, "")
    error, remedy = done.err.splitlines()
    assert error.startswith(f"error: {database} ")
    reason, code = REASONS[state].format(db=database), REFUSED[state][0]
    assert f": {reason}" in error
    assert error.endswith(f". [{code}]")
    done = command("db", name, "-d", str(database), "--json")
    assert (done.status, done.err) == (1, "")
    facts = json.loads(done.out)["error"]
    assert facts.keys() == {"code", "message", "remedy"}
    assert (facts["code"], f"remedy: {facts['remedy']}") == (code, remedy)


@pytest.mark.parametrize("name", ["current", "check", "history"])
@pytest.mark.parametrize("state", [*SERVED, *REFUSED])
def test_inspecting_changes_nothing(
    name: str, state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """The bytes, mode and times of the file stay the same, and no other file is created."""
    shelf.put(state, database)
    if database.exists():
        database.chmod(0o640)
    before = (fingerprint(database), listing(database.parent))
    command("db", name, "-d", str(database))
    assert (fingerprint(database), listing(database.parent)) == before


def test_current_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """With --json the result is one document."""
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
    shelf.put("narrow", database)
    done = command("db", "check", "-d", str(database), "--json")
    document = json.loads(done.out)
    assert (done.status, document["ready"], document["pending"]) == (3, False, [])
    assert document["mends"] == ["adds index idx_browser_sessions_user"]


def test_a_hot_journal_is_not_rolled_back(shelf: Shelf, database: Path, command: Command) -> None:
    """A crashed writer's journal is rolled back in a copy only, and stays for the next start."""
    crash(shelf.put("at-head", database.with_name("live.db")), database)
    journal = database.with_name("tokens.db-journal")
    before = (fingerprint(database), fingerprint(journal), listing(database.parent))
    assert command("db", "current", "-d", str(database)).out == f"{HEAD} (head)\n"
    assert command("db", "check", "-d", str(database)).status == 0
    done = command("db", "log", "-d", str(database))
    assert (done.status, done.out.splitlines()[1].split()[2]) == (0, "create")
    assert (fingerprint(database), fingerprint(journal), listing(database.parent)) == before


@pytest.mark.parametrize("name", ["current", "check", "doctor", "log"])
def test_a_wal_database_gets_only_the_files_of_sqlite(
    name: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """Beside a stopped database in WAL mode only a `-shm` and an empty `-wal` are created."""
    before = fingerprint(shelf.put("at-head", database))
    command("db", name, "-d", str(database))
    wal, shm = f"{database.name}-wal", f"{database.name}-shm"
    assert (fingerprint(database), names(database.parent)) == (before, {database.name, wal, shm})
    assert database.with_name(wal).stat().st_size == 0


def test_pages_are_checked_before_a_migration_and_by_the_doctor(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """A damaged page stops a migration, a backup and the doctor, but not a start at head."""
    damage(shelf.put("at-head", database), "audit_logs")
    before = fingerprint(database)
    assert "nothing to do" in command("db", "upgrade", "-d", str(database)).out
    for arguments in (("doctor", "--full"), ("doctor",), ("backup",)):
        done = command("db", *arguments, "-d", str(database))
        assert (done.status, "malformed" in done.out + done.err) == (1, True)
    assert fingerprint(database) == before

    old = damage(shelf.put("behind", database.with_name("old.db")), "audit_logs")
    before = fingerprint(old)
    refused = command("db", "upgrade", "-d", str(old), "--json")
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (1, "corrupt")
    assert fingerprint(old) == before
