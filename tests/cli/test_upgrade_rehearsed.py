"""`db upgrade --dry-run` and `db upgrade --sql`."""

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
from tests.cli.conftest import Db
from tests.cli.places import SERVED, Shelf, crash, fingerprint, listing, process, rows
from tests.cli.test_states import CURRENT
from tests.support.revisions import HEAD

#: States that statements cannot upgrade.
WITHOUT_SQL = {"pre-alembic", "no-version-row", "null-version-row", "narrow", "untidy"}


@pytest.mark.parametrize("state", SERVED)
def test_dry_run_prints_what_an_upgrade_does(state: str, db: Db) -> None:
    """It prints the plan, as `db current` does, the time and the space; nothing changes."""
    db.put(state)
    before = (fingerprint(db.path), listing(db.path.parent))
    done = db("upgrade", "--dry-run")
    assert (fingerprint(db.path), listing(db.path.parent)) == before
    assert (done.status, done.err) == (0, "")
    if state == "at-head":
        assert done.out == f"{db.path} is at revision {HEAD} already: nothing to do\n"
        return
    first, time, space, last = done.out.splitlines()
    assert first == f"{db.path}: {CURRENT[state][0].splitlines()[1]}"
    held = r"(1 row|(?!1 )\d+ rows)"
    assert re.fullmatch(
        rf"ran on a copy with {held} in \d+\.\d\d s: it is at revision {HEAD}", time
    )
    size = r"[\d.]+ (bytes|[kMGT]B)"
    assert re.fullmatch(
        rf"disk space needed meanwhile: {size} for its backup, {size} in all \({size} free\)", space
    )
    assert last == "nothing was changed"


def test_dry_run_as_json(db: Db) -> None:
    """With --json the document has the facts of an upgrade, and the space."""
    db.put("pre-alembic")
    document = json.loads(db("upgrade", "--dry-run", "--json", "-r", "003").out)
    assert min(document.pop(name) for name in ("seconds", "bytes_backup", "bytes_free")) > 0
    assert document.pop("bytes_needed") > 0
    assert document == {
        "unopened_secrets": 0,
        "database": str(db.path),
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


KEY = Fernet.generate_key().decode()

#: Keys that an upgrade refuses, with its code.
WRONG = {
    Fernet.generate_key().decode(): "wrong-key",
    "abc": "malformed-key",
    f"'{KEY}'": "malformed-key",
    f"{KEY},": "malformed-key",
}


@pytest.mark.parametrize("state", ["behind", "pre-alembic", "at-head"])
def test_dry_run_verifies_the_keys(state: str, db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """It succeeds and fails with the same keys as the upgrade; nothing changes."""
    before = (fingerprint(encrypt(db.put(state))), [db.path.name])
    refused = {}
    for key, code in WRONG.items():
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", key)
        refused[key] = db("upgrade", "--dry-run")
        assert (refused[key].status, refused[key].out) == (1, "")
        assert f" [{code}]\n" in refused[key].err
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    assert db("upgrade", "--dry-run").status == 0
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")
    assert db("upgrade", "--dry-run").status == 0
    assert (fingerprint(db.path), listing(db.path.parent)) == before
    for key, done in refused.items():
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", key)
        assert db("upgrade") == done


def test_dry_run_verifies_the_keys_after_a_crash(
    shelf: Shelf, tmp_path: Path, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys are verified in a copy, and the journal of the crashed writer stays."""
    crash(encrypt(shelf.put("at-head", tmp_path / "live.db")), db.path)
    journal = db.path.with_name(f"{db.path.name}-journal")
    before = (fingerprint(db.path), fingerprint(journal))
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", next(iter(WRONG)))
    done = db("upgrade", "--dry-run", "--json")
    error = json.loads(done.out)["error"]
    assert (error["code"], str(db.path) in error["message"]) == ("wrong-key", True)
    assert (fingerprint(db.path), fingerprint(journal)) == before


def encrypt(path: Path) -> Path:
    """Encrypt the one grant of a database, as a release would have done."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        token = Keyring([KEY]).keys[0].encrypt_fernet(b"grant")
        connection.execute("UPDATE refresh_tokens SET encrypted_token = ?", [token])
    return path


@pytest.mark.parametrize("state", SERVED)
def test_sql_prints_the_statements(state: str, db: Db) -> None:
    """Statements are printed, or refused if they would not be enough; nothing changes."""
    db.put(state)
    before = (fingerprint(db.path), listing(db.path.parent))
    done = db("upgrade", "--sql")
    assert (fingerprint(db.path), listing(db.path.parent)) == before
    if state in WITHOUT_SQL:
        assert (done.status, done.out) == (1, "")
        assert done.err.startswith(f"error: There are no statements for {db.path}: it")
        assert f": nextcloud-mcp-server db upgrade -d {db.path} --dry-run - then" in done.err
        return
    assert (done.status, done.err) == (0, "")
    first, *more = done.out.splitlines()
    if state == "at-head":
        assert done.out == f"-- {db.path} is at revision {HEAD} already: nothing to do\n"
        return
    start = "007" if state == "behind" else "base"
    assert first == f"-- {db.path}: from revision {start} to {HEAD}."
    assert more[1] == "PRAGMA foreign_keys=OFF;"
    assert [more.count("BEGIN;"), more.count("COMMIT;"), more[-1]] == [1, 1, "COMMIT;"]


def test_sql_as_json(db: Db) -> None:
    """With --json the document has the statements as one text."""
    db.put("behind")
    document = json.loads(db("upgrade", "--sql", "--json", "-r", "008").out)
    assert "CREATE TABLE IF NOT EXISTS batch_ocr_jobs" in document.pop("sql")
    assert document == {"database": str(db.path), "before": "007", "after": "008", "steps": ["008"]}


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_sql_can_be_run(shelf: Shelf, tmp_path: Path) -> None:
    """However the database was named, and whatever its name is, SQLite's shell runs the output."""
    path = shelf.put("behind", tmp_path / "a\nDROP TABLE refresh_tokens;.db")
    done = process("db", "upgrade", "--sql", cwd=tmp_path, environ={"TOKEN_STORAGE_DB": str(path)})
    assert (done.status, done.err) == (0, "")
    subprocess.run(["sqlite3", "-bail", path], input=done.out, text=True, check=True)
    assert rows(path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert rows(path, "SELECT user_id FROM refresh_tokens") == [("alice",)]
