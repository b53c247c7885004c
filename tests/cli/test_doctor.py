"""`db doctor` and `db repair`: output and exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.doctor.run import CHECKS
from tests.cli.conftest import Command, Db
from tests.cli.places import execute, fingerprint, listing, rows
from tests.support.contents import KEY
from tests.support.invariants import HEAD


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)


@pytest.fixture
def _no_key(monkeypatch: pytest.MonkeyPatch, _key: None) -> None:
    # The secrets of the shelf were encrypted with a key that nobody has; a repair needs none.
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")


def test_every_line_is_a_check_and_errors_come_first(db: Db) -> None:
    """One line each: level, check, message and the command that fixes it; then the counts."""
    db.put("two-rows")
    db.path.chmod(0o600)
    done = db("doctor")
    *lines, total, fixing = done.out.splitlines()
    assert (done.status, done.err) == (1, "")
    assert lines[0] == (
        f"error    state: ambiguous-version: alembic_version holds 003 and {HEAD}; "
        f"fix it: nextcloud-mcp-server db repair -d {db.path}"
    )
    assert {line[9:].partition(":")[0] for line in lines} <= set(CHECKS)
    levels = [line[:7].rstrip() for line in lines]
    assert levels == sorted(levels, key=["error", "warning", "note", "ok"].index)
    assert re.fullmatch(r"\d+ errors?, (\d+ [a-z]+, )*\d+ ok", total)
    assert fixing == f"to fix 2 of them: nextcloud-mcp-server db repair -d {db.path}"


def test_the_document_of_the_doctor(db: Db) -> None:
    """With --json every finding is an object, and stderr is empty."""
    db.put("narrow")
    done = db("doctor", "--json")
    document = json.loads(done.out)
    assert done.err == ""
    assert document.keys() == {"database", "worst", "findings"}
    [gap] = [f for f in document["findings"] if f["check"] == "structure"]
    assert gap == {
        "check": "structure",
        "level": "warning",
        "message": "it lacks index idx_browser_sessions_user",
        "mend": f"nextcloud-mcp-server db repair -d {db.path}",
        "mendable": True,
    }


def test_notes_and_warnings_are_exit_status_zero(db: Db) -> None:
    """A missing database is no error."""
    done = db("doctor")
    assert (done.status, done.err) == (0, "")
    assert "there is no file" in done.out


def test_an_incomplete_check_is_exit_status_three(db: Db) -> None:
    """If there is no error but something could not be checked, "unknown" is printed."""
    db.put("at-head")
    db.path.chmod(0o600)
    execute(db.path, "DELETE FROM refresh_tokens")
    # Not even root can lock a folder as if it were a file.
    db.path.with_name(f"{db.path.name}.inuse").mkdir()
    done = db("doctor")
    assert (done.status, done.err) == (3, "")
    warning, unknown, *_, total = done.out.splitlines()
    assert warning.startswith("warning  server: ")
    assert unknown.startswith("unknown  server: ")
    assert total.startswith("1 warning, 1 unknown, ")
    done = db("doctor", "--json")
    assert (done.status, done.err) == (3, "")
    document = json.loads(done.out)
    assert document["worst"] == "warning"
    levels = [f["level"] for f in document["findings"] if f["check"] == "server"]
    assert levels == ["warning", "unknown"]


def test_control_characters_in_a_name_are_escaped(database: Path, command: Command) -> None:
    """A finding is one line, whatever the name of the database is."""
    path = database.with_name("to\nkens\x1b[2J.db")
    done = command("db", "doctor", "-d", str(path))
    assert "\x1b" not in done.out
    assert all(line[:7].strip() for line in done.out.splitlines())


@pytest.mark.usefixtures("_no_key")
def test_repair_prints_what_it_did(db: Db) -> None:
    """The problems are printed first; then what was repaired, and the backup."""
    db.put("two-rows")
    db.path.chmod(0o600)
    done = db("repair", "--yes")
    first = f"error    state: ambiguous-version: alembic_version holds 003 and {HEAD}\n"
    assert done.err.startswith(first)
    repaired, backup, *_ = done.out.splitlines()
    assert repaired == f"recorded revision {HEAD}, which its tables have"
    assert backup.startswith(f"backup: {db.path}.backup-")
    assert rows(db.path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert db("check").status == 0


@pytest.mark.usefixtures("_no_key")
@pytest.mark.parametrize("state", ["at-head", "two-rows"])
def test_a_backup_is_promised_only_if_it_is_made(state: str, db: Db) -> None:
    """A repair that only changes a mode makes no backup, and does not say that it does."""
    db.put(state)
    db.path.chmod(0o644)
    done = db("repair", stdin=b"y\n")
    assert ("A backup is made first." in done.err) == ("backup: " in done.out)
    assert db.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("_state", ["at-head"])
def test_every_time_has_one_form(_state: str, db: Db) -> None:
    """Each command prints a time in UTC, to the second, with its zone."""
    db.put(_state)
    db("backup")
    told = {
        "log": db("log").out.splitlines()[1],
        "backups": db("backups").out,
        "doctor": next(line for line in db("doctor").out.splitlines() if "clock: " in line),
    }
    form = re.compile(r"(?<![-\dT])\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ(?=[ ,])")
    assert {name: len(form.findall(text)) for name, text in told.items()} == dict.fromkeys(told, 1)


@pytest.mark.usefixtures("_no_key")
def test_the_question_names_the_upgrade(db: Db) -> None:
    """If a repair also upgrades the database to head, that is printed before the question."""
    db.put("behind")
    execute(db.path, "DELETE FROM alembic_version")
    done = db("repair", stdin=b"n\n")
    listed, _, _ = done.err.partition("Fix these problems?")
    assert listed.splitlines()[-1].startswith(
        "upgrade  the repair also upgrades the database from 0"
    )
    assert listed.endswith(f" to {HEAD}\n")
    db.put("two-rows")
    assert "upgrade  " not in db("repair", stdin=b"n\n").err


@pytest.mark.usefixtures("_no_key")
def test_the_document_of_a_repair(db: Db) -> None:
    """With --json one document has what was repaired and what is left."""
    db.put("narrow")
    document = json.loads(db("repair", "--yes", "--json").out)
    assert document.keys() == {"database", "mended", "backup", "kept", "worst", "findings"}
    assert document["mended"][-1] == "added index idx_browser_sessions_user"
    assert Path(document["backup"]).is_file()


@pytest.mark.usefixtures("_no_key")
def test_nothing_to_repair(db: Db) -> None:
    """A healthy database is not changed, and there is no question."""
    db.put("at-head")
    db.path.chmod(0o600)
    before = (fingerprint(db.path), listing(db.path.parent))
    done = db("repair")
    assert done.out.splitlines()[0] == "nothing to repair"
    assert "[y/N]" not in done.err
    assert (fingerprint(db.path), listing(db.path.parent)) == before
