"""What `db doctor` and `db repair` print, ask and exit with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.doctor.run import CHECKS
from tests.cli.conftest import Command
from tests.cli.places import REFUSED, SERVED, Shelf, execute, fingerprint, listing, rows
from tests.support.contents import KEY
from tests.support.invariants import HEAD

#: States that a start refuses and a repair mends.
MENDED = {"two-rows"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)


@pytest.fixture
def _no_key(monkeypatch: pytest.MonkeyPatch, _key: None) -> None:
    # The secrets on the shelf were sealed with nobody's key, and a migration needs none.
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")


def test_every_line_is_a_check_and_the_worst_is_first(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """One line each: level, check, what was found and the command that mends it; then a sum."""
    shelf.put("two-rows", database)
    database.chmod(0o600)
    done = command("db", "doctor", "-d", str(database))
    *lines, total = done.out.splitlines()
    assert (done.status, done.err) == (1, "")
    assert lines[0] == (
        f"error    state: ambiguous-version: alembic_version holds 003 and {HEAD}; "
        f"mend it: nextcloud-mcp-server db repair -d {database}"
    )
    assert {line[9:].partition(":")[0] for line in lines} <= set(CHECKS)
    levels = [line[:7].rstrip() for line in lines]
    assert levels == sorted(levels, key=["error", "warning", "note", "ok"].index)
    assert total.endswith("; db repair mends 2")


def test_the_document_has_the_same(shelf: Shelf, database: Path, command: Command) -> None:
    """With --json every finding is an object, and stderr is empty."""
    shelf.put("narrow", database)
    done = command("db", "doctor", "-d", str(database), "--json")
    document = json.loads(done.out)
    assert done.err == ""
    assert document.keys() == {"database", "worst", "findings"}
    [gap] = [f for f in document["findings"] if f["check"] == "structure"]
    assert gap == {
        "check": "structure",
        "level": "warning",
        "message": "it lacks index idx_browser_sessions_user",
        "mend": f"nextcloud-mcp-server db repair -d {database}",
        "mendable": True,
    }


@pytest.mark.parametrize("state", REFUSED)
def test_an_error_is_exit_status_one(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """What a start refuses, the doctor exits with 1 on, and never with a traceback."""
    shelf.put(state, database)
    for options in ([], ["--full"], ["--json"]):
        done = command("db", "doctor", "-d", str(database), *options)
        assert (done.status, done.err) == (1, "")


def test_notes_and_warnings_are_exit_status_zero(database: Path, command: Command) -> None:
    """A database that is not there yet is no error."""
    done = command("db", "doctor", "-d", str(database))
    assert (done.status, done.err) == (0, "")
    assert "there is no file" in done.out


@pytest.mark.parametrize("json_too", [False, True])
def test_the_exit_status_says_that_not_all_was_seen(
    json_too: bool, shelf: Shelf, database: Path, command: Command
) -> None:
    """No error, and something that could not be looked at: 3, and "unknown" in both forms."""
    shelf.put("at-head", database)
    database.chmod(0o600)
    execute(database, "DELETE FROM refresh_tokens")
    # What is no regular file cannot be asked, by root either.
    database.with_name(f"{database.name}.inuse").mkdir()
    done = command("db", "doctor", "-d", str(database), *(["--json"] if json_too else []))
    assert (done.status, done.err) == (3, "")
    if json_too:
        document = json.loads(done.out)
        assert document["worst"] == "unknown"
        [server] = [f for f in document["findings"] if f["check"] == "server"]
        assert server["level"] == "unknown"
    else:
        first, *_, total = done.out.splitlines()
        assert first.startswith("unknown  server: whether one is running is unknown: ")
        assert total.startswith("1 unknown, ")


def test_a_name_that_a_terminal_would_obey(database: Path, command: Command) -> None:
    """A finding is one line, whatever the database is called."""
    path = database.with_name("to\nkens\x1b[2J.db")
    done = command("db", "doctor", "-d", str(path))
    assert "\x1b" not in done.out
    assert len(done.out.splitlines()) == done.out.count("\n")
    assert all(line[:7].strip() for line in done.out.splitlines())


@pytest.mark.usefixtures("_no_key")
@pytest.mark.parametrize("answer", [b"", b"n\n", b"\n", b"yess\n", b"\xff\n"])
def test_without_a_yes_nothing_is_mended(
    answer: bytes, shelf: Shelf, database: Path, command: Command
) -> None:
    """No answer, a no and anything unclear refuse; the file and its folder are as they were."""
    shelf.put("two-rows", database)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "repair", "-d", str(database), stdin=answer)
    assert (done.status, done.out) == (1, "")
    who = "The answer was not yes" if answer else "There was nobody to ask"
    assert f"error: {who}, so nothing was changed. [declined]\n" in done.err
    assert (
        f"remedy: To mend it without being asked: nextcloud-mcp-server db repair -d {database} "
        "--yes\n" in done.err
    )
    assert (fingerprint(database), listing(database.parent)) == before


def test_a_wrong_key_stops_a_repair(shelf: Shelf, database: Path, command: Command) -> None:
    """Whoever holds a key that opens nothing may be at the wrong database; nothing changes."""
    shelf.put("two-rows", database)
    before = fingerprint(database)
    done = command("db", "repair", "-d", str(database), "--yes")
    assert (done.status, done.out) == (1, "")
    assert f"error: No given key opens the encrypted values in {database}. [wrong-key]" in done.err
    assert fingerprint(database) == before


@pytest.mark.usefixtures("_no_key")
@pytest.mark.parametrize(("options", "stdin"), [(["--yes"], b""), ([], b"y\n"), ([], b"YES\n")])
def test_with_a_yes_it_says_what_it_did(
    options: list[str], stdin: bytes, shelf: Shelf, database: Path, command: Command
) -> None:
    """What is found is shown first; then what was mended and where the backup lies."""
    shelf.put("two-rows", database)
    database.chmod(0o600)
    done = command("db", "repair", "-d", str(database), *options, stdin=stdin)
    first, *_ = done.err.splitlines()
    assert first == f"error    state: ambiguous-version: alembic_version holds 003 and {HEAD}"
    mended, backup, *_ = done.out.splitlines()
    assert mended == f"recorded revision {HEAD}, which its tables have"
    assert backup.startswith(f"backup: {database}.backup-")
    assert rows(database, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert command("db", "check", "-d", str(database)).status == 0


@pytest.mark.usefixtures("_no_key")
def test_what_is_asked_for_names_the_upgrade(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """Where a repair brings the database to head, too, that stands before the question."""
    shelf.put("behind", database)
    execute(database, "DELETE FROM alembic_version")
    done = command("db", "repair", "-d", str(database), stdin=b"n\n")
    listed, _, _ = done.err.partition("Mend this?")
    assert listed.splitlines()[-1].startswith(
        "upgrade  the repair also upgrades the database from 0"
    )
    assert listed.endswith(f" to {HEAD}\n")
    shelf.put("two-rows", database)
    assert "upgrade  " not in command("db", "repair", "-d", str(database), stdin=b"n\n").err


@pytest.mark.usefixtures("_no_key")
def test_a_repair_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """With --json one document says what was mended and what is left."""
    shelf.put("narrow", database)
    done = command("db", "repair", "-d", str(database), "--yes", "--json")
    document = json.loads(done.out)
    assert document.keys() == {"database", "mended", "backup", "kept", "worst", "findings"}
    assert document["mended"][-1] == "added index idx_browser_sessions_user"
    assert Path(document["backup"]).is_file()


@pytest.mark.usefixtures("_no_key")
def test_nothing_to_mend(shelf: Shelf, database: Path, command: Command) -> None:
    """A healthy database is left alone, and nobody is asked."""
    shelf.put("at-head", database)
    database.chmod(0o600)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "repair", "-d", str(database))
    assert done.out.splitlines()[0] == "nothing to mend"
    assert (fingerprint(database), listing(database.parent)) == before


@pytest.mark.parametrize("state", sorted(REFUSED.keys() - MENDED))
def test_what_cannot_be_mended_is_refused(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """Foreign, newer, damaged and lost: the state's own code, and the file as it was."""
    shelf.put(state, database)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "repair", "-d", str(database), "--yes", "--json")
    assert (done.status, done.err) == (1, "")
    assert json.loads(done.out)["error"]["code"] == REFUSED[state][0]
    assert (fingerprint(database), listing(database.parent)) == before


@pytest.mark.usefixtures("_no_key")
@pytest.mark.parametrize("state", sorted(SERVED.keys() - {"missing"}))
def test_a_served_state_stays_served(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """After a repair a start goes on, and no grant is lost."""
    shelf.put(state, database)
    command("db", "repair", "-d", str(database), "--yes")
    assert command("db", "upgrade", "-d", str(database)).status == 0
    grants = rows(database, "SELECT count(*) FROM refresh_tokens")
    assert grants == [(0 if state == "zero-bytes" else 1,)]


@pytest.mark.parametrize("name", ["doctor", "repair"])
def test_the_help_names_the_options(name: str, command: Command) -> None:
    """What a command takes stands in its help."""
    text = command("db", name, "--help").out
    for option in ("--database-path", "--json", "--full" if name == "doctor" else "--yes"):
        assert option in text
