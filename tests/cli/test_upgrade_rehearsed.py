"""`db upgrade --dry-run` and `db upgrade --sql`, word for word."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.crypto.keyring import Keyring
from tests.cli.conftest import Command
from tests.cli.places import REFUSED, SERVED, Shelf, crash, fingerprint, listing, process, rows
from tests.support.revisions import HEAD, pending_after

#: By state: how the first line of a rehearsal goes on after the path.
REHEARSED = {
    "at-head": f" is at revision {HEAD} already: nothing to do",
    "behind": f": an upgrade runs {', '.join(pending_after('007'))}",
    "pre-alembic": ": an upgrade stamps it with 001 and runs 002, ",
    "no-version-row": ": an upgrade stamps it with 001 and runs 002, ",
    "null-version-row": ": an upgrade stamps it with 001 and runs 002, ",
    "narrow": ": an upgrade adds index idx_browser_sessions_user",
    "untidy": ": an upgrade puts the version table in order",
    "zero-bytes": f": an upgrade creates it at {HEAD}",
    "missing": f": an upgrade creates it at {HEAD}",
}

#: States for which statements would not do.
UNWRITTEN = {"pre-alembic", "no-version-row", "null-version-row", "narrow", "untidy"}


@pytest.mark.parametrize("state", SERVED)
def test_a_rehearsal_says_what_an_upgrade_does(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """In every served state: the steps, the time and the space; nothing changes."""
    shelf.put(state, database)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "upgrade", "--dry-run", "-d", str(database))
    assert (fingerprint(database), listing(database.parent)) == before
    assert (done.status, done.err) == (0, "")
    first, *more = done.out.splitlines()
    assert first.startswith(f"{database}{REHEARSED[state]}")
    if state == "at-head":
        assert more == []
        return
    took, space, last = more
    held = r"(1 row|(?!1 )\d+ rows)"
    assert re.fullmatch(
        rf"rehearsed on a copy with {held} in \d+\.\d\d s: it ends at revision {HEAD}", took
    )
    size = r"[\d.]+ (bytes|[kMGT]B)"
    assert re.fullmatch(
        rf"space needed beside it meanwhile: {size} for its backup, {size} in all "
        rf"\({size} free\)",
        space,
    )
    assert last == "nothing was changed"


def test_a_rehearsal_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """The same facts as of an upgrade, and the space."""
    shelf.put("pre-alembic", database)
    done = command("db", "upgrade", "--dry-run", "--json", "-r", "003", "-d", str(database))
    document = json.loads(done.out)
    assert min(document.pop(name) for name in ("seconds", "bytes_backup", "bytes_free")) > 0
    assert document.pop("bytes_needed") > 0
    assert document == {
        "database": str(database),
        "dry_run": True,
        "state": "pre-alembic",
        "action": "stamp",
        "before": "001",
        "after": "003",
        "stamped": True,
        "steps": ["002", "003"],
        "mended": [],
        "rows": 1,
    }


@pytest.mark.parametrize("option", ["--dry-run", "--sql"])
@pytest.mark.parametrize("state", REFUSED)
def test_what_is_refused_is_refused_here_too(
    option: str, state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """With the code of the upgrade itself, and nothing changes."""
    shelf.put(state, database)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "upgrade", option, "--json", "-d", str(database))
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, REFUSED[state][0])
    assert (fingerprint(database), listing(database.parent)) == before


KEY = Fernet.generate_key().decode()

#: What somebody may set, and the code with which an upgrade refuses it.
WRONG = {
    "another key": (Fernet.generate_key().decode(), "wrong-key"),
    "no key": ("abc", "malformed-key"),
    "in quotes": (f"'{KEY}'", "malformed-key"),
    "a comma": (f"{KEY},", "malformed-key"),
}


@pytest.mark.parametrize("state", ["behind", "pre-alembic", "at-head"])
def test_keys_that_an_upgrade_refuses_are_refused_here_too(
    state: str, shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same words, whatever there is to do; nothing changes, and no key is made."""
    before = (fingerprint(seal(shelf.put(state, database))), [database.name])
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    assert command("db", "upgrade", "--dry-run", "-d", str(database)).status == 0
    told = {}
    for given, (key, code) in WRONG.items():
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", key)
        told[key] = command("db", "upgrade", "--dry-run", "-d", str(database))
        assert (told[key].status, told[key].out) == (1, ""), given
        assert f" [{code}]\n" in told[key].err, given
        assert (fingerprint(database), listing(database.parent)) == before
    for key, done in told.items():
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", key)
        assert command("db", "upgrade", "-d", str(database)) == done


def test_the_keys_are_proven_on_what_a_crashed_writer_left(
    shelf: Shelf, tmp_path: Path, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At head, too, where nothing else has to be read: in a copy, the journal stays."""
    crash(seal(shelf.put("at-head", tmp_path / "live.db")), database)
    journal = database.with_name(f"{database.name}-journal")
    before = (fingerprint(database), fingerprint(journal))
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", WRONG["another key"][0])
    done = command("db", "upgrade", "--dry-run", "--json", "-d", str(database))
    error = json.loads(done.out)["error"]
    assert error["code"] == "wrong-key"
    assert error["message"] == f"No given key opens the encrypted values in {database}."
    assert (fingerprint(database), fingerprint(journal)) == before


def test_a_rehearsal_needs_no_key(shelf: Shelf, database: Path, command: Command) -> None:
    """As an upgrade needs none, which then makes none either."""
    seal(shelf.put("behind", database))
    assert command("db", "upgrade", "--dry-run", "-d", str(database)).status == 0
    assert listing(database.parent) == [database.name]


def seal(path: Path) -> Path:
    """Seal the one grant of a database, as a release would have."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        sealed = Keyring([KEY]).encrypt("grant")
        connection.execute("UPDATE refresh_tokens SET encrypted_token = ?", [sealed])
    return path


@pytest.mark.parametrize("state", SERVED)
def test_the_statements_of_every_state(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """They are printed, or refused where they would not do; nothing changes."""
    shelf.put(state, database)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", "upgrade", "--sql", "-d", str(database))
    assert (fingerprint(database), listing(database.parent)) == before
    if state in UNWRITTEN:
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"error: There are no statements for {database}: it")
        assert f"'nextcloud-mcp-server db upgrade -d {database} --dry-run'" in done.err
        return
    assert (done.status, done.err) == (0, "")
    first, *more = done.out.splitlines()
    if state == "at-head":
        assert done.out == f"-- {database} is at revision {HEAD} already: nothing to do\n"
        return
    start = "007" if state == "behind" else "base"
    assert first == f"-- {database}: from revision {start} to {HEAD}."
    assert more[1] == "PRAGMA foreign_keys=OFF;"
    assert [more.count("BEGIN;"), more.count("COMMIT;"), more[-1]] == [1, 1, "COMMIT;"]


def test_the_statements_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """One document with the statements as one text."""
    shelf.put("behind", database)
    done = command("db", "upgrade", "--sql", "--json", "-r", "008", "-d", str(database))
    document = json.loads(done.out)
    assert "CREATE TABLE IF NOT EXISTS batch_ocr_jobs" in document.pop("sql")
    assert document == {
        "database": str(database),
        "before": "007",
        "after": "008",
        "steps": ["008"],
    }


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not there")
def test_stdout_is_sql_and_nothing_else(shelf: Shelf, tmp_path: Path) -> None:
    """Whichever way the database was named, and whatever its name is, the shell can run it."""
    path = shelf.put("behind", tmp_path / "a\nDROP TABLE refresh_tokens;.db")
    done = process("db", "upgrade", "--sql", cwd=tmp_path, environ={"TOKEN_STORAGE_DB": str(path)})
    assert (done.status, done.err) == (0, "")
    subprocess.run(["sqlite3", "-bail", path], input=done.out, text=True, check=True)
    assert rows(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert rows(path, "SELECT user_id FROM refresh_tokens") == [("alice",)]


def test_one_or_the_other(database: Path, command: Command) -> None:
    """--dry-run and --sql together are wrong usage."""
    done = command("db", "upgrade", "--sql", "--dry-run", "-d", str(database))
    assert (done.status, done.out) == (2, "")
    assert not database.exists()
