"""`db downgrade --dry-run` and `db downgrade --sql`."""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.crypto.keyring import Keyring
from tests.cli.conftest import Command, Db
from tests.cli.places import SERVED, fingerprint, listing, rows
from tests.support.contents import KEY, LATER
from tests.support.revisions import HEAD, pending_after

PREVIEWS = ["--dry-run", "--sql"]


@pytest.mark.parametrize("option", PREVIEWS)
@pytest.mark.parametrize("state", SERVED)
def test_a_preview_succeeds_like_the_downgrade_and_changes_nothing(
    state: str, option: str, db: Db
) -> None:
    """Its exit status is that of the downgrade; no byte changes and no file is left."""
    db.put(state)
    before = (fingerprint(db.path), listing(db.path.parent))
    done = db("downgrade", option)
    assert (fingerprint(db.path), listing(db.path.parent)) == before
    if "There are no statements" in done.err:
        assert "db upgrade" in done.err
        return
    if "--sql has neither" in done.err:
        # It cannot decrypt.
        assert option == "--sql"
        return
    real = db("downgrade", "--yes")
    assert done.status == real.status, done.err
    assert done.status == 0 or done.err == real.err


@pytest.mark.parametrize("typed", ["010", "-3", "base"])
def test_a_preview_that_needs_a_key_names_one_that_works(
    typed: str, db: Db, command: Command
) -> None:
    """`--sql` cannot decrypt, and its remedy names the database and the revision."""
    db.put("at-head")
    done = db("downgrade", typed, "--sql", "--json")
    error = json.loads(done.out)["error"]
    assert error["code"] == "bad-input"
    assert "--sql has neither a connection nor a key" in error["message"]
    remedy = error["remedy"].partition("nextcloud-mcp-server ")[2]
    result = command(*shlex.split(remedy))
    assert (result.status, result.err) == (0, "")
    target = {"010": "revision 010", "-3": "revision 101", "base": "base"}[typed]
    assert f"goes back to {target}" in result.out
    assert result.out.endswith("nothing was changed\n")


def test_dry_run_prints_what_is_lost(db: Db) -> None:
    """It prints what the downgrade would warn of, then the tables with rows that are dropped."""
    db.put("at-head")
    done = db("downgrade", "base", "--dry-run")
    assert (done.status, done.err) == (0, "")
    warning = db("downgrade", "base", stdin=b"n\n").err.splitlines()
    lines = done.out.splitlines()
    expected = [line for line in warning if not line.startswith(("Go back?", "error", "remedy"))]
    assert lines[:-3] == expected
    assert "refresh_tokens (1 row)" in lines[-3]
    assert lines[-1] == "nothing was changed"


def test_dry_run_as_json(db: Db) -> None:
    """With --json the document has the steps, the losses and the rows."""
    db.put("at-head")
    document = json.loads(db("downgrade", "010", "--dry-run", "--json").out)
    assert document.pop("seconds") > 0
    assert document.pop("rows") > 0
    undone = [*reversed(pending_after("010"))]
    assert [*document.pop("loses")] == undone
    # The other tables with rows stay.
    assert document.pop("rows_lost").keys() == {"migration_journal"}
    assert document == {
        "database": str(db.path),
        "dry_run": True,
        "before": HEAD,
        "after": "010",
        "steps": undone,
        "rows_deleted": {},
        "secrets_encrypted": {},
        "key": None,
    }


@pytest.mark.parametrize("option", PREVIEWS)
def test_a_preview_works_while_a_server_is_running(option: str, db: Db) -> None:
    """The real downgrade is refused then."""
    db.put("at-head")
    db("downgrade", "102", "--yes")
    hold = connect(db.path).hold()
    assert hold is not None
    try:
        assert db.refused("downgrade", "--yes") == "in-use"
        assert db("downgrade", option).status == 0
    finally:
        hold.release()


def test_dry_run_verifies_the_keys(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the downgrade refuses is refused."""
    db.put("at-head")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", "abc")
    assert db.refused("downgrade", "--dry-run") == "malformed-key"
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", Fernet.generate_key().decode())
    with closing(sqlite3.connect(db.path)) as connection, connection:
        token = Fernet(Fernet.generate_key()).encrypt(b"x")
        connection.execute("UPDATE refresh_tokens SET encrypted_token = ?", [token])
    assert db.refused("downgrade", "--dry-run") == "wrong-key"


@pytest.mark.parametrize("option", PREVIEWS)
def test_a_wrong_revision_is_refused(option: str, db: Db) -> None:
    """An unknown one has its code, and a step up is wrong usage, as for the downgrade itself."""
    db.put("at-head")
    assert db.refused("downgrade", "999", option) == "unknown-revision"
    done = db("downgrade", "head", option)
    assert (done.status, "[bad-input]" in done.err) == (2, True)


def test_both_at_once_are_wrong_usage(db: Db) -> None:
    """--dry-run and --sql exclude each other."""
    assert db("downgrade", "--dry-run", "--sql").status == 2


def test_what_is_deleted_and_encrypted_is_shown_before_the_question(
    db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question, the rehearsal, the result and --json count it; without a key all refuse."""

    async def store() -> None:
        async with RefreshTokenStorage(db.path, encryption_key=KEY) as storage:
            await storage.store_refresh_token("alice", "token")
            await storage.browser_sessions.create("s" * 43, "alice", expires_at=LATER)

    asyncio.run(store())
    for arguments in (("--yes",), ("--dry-run",), ()):
        assert db.refused("downgrade", "102", *arguments) == "key-missing"
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    [name] = Keyring(KEY).fingerprints
    lines = (
        "rows with the hash of an id, which are deleted: 1 in browser_sessions",
        f"secrets that are encrypted for older versions, with key {name}: 1 in refresh_tokens",
    )
    facts = {
        "rows_deleted": {"browser_sessions": 1},
        "secrets_encrypted": {"refresh_tokens": 1},
        "key": name,
    }
    asked, rehearsed = db("downgrade", "102", stdin=b"n\n"), db("downgrade", "102", "--dry-run")
    for line in lines:
        assert line in asked.err.splitlines()
        assert line in rehearsed.out.splitlines()
    for option in ("--dry-run", "--yes"):
        document = json.loads(db("downgrade", "102", option, "--json").out)
        assert {name: document[name] for name in facts} == facts


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
@pytest.mark.parametrize("revision", ["-1", "005", "base"])
def test_sql_does_what_the_downgrade_does(revision: str, db: Db, tmp_path: Path) -> None:
    """SQLite's shell runs the output; the tables are those after the real downgrade."""
    db.put("at-head")
    db("downgrade", "102", "--yes")
    copy = shutil.copy(db.path, tmp_path / "copy.db")
    done = db("downgrade", revision, "--sql")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"-- {db.path}: from revision 102 to ")
    subprocess.run(["sqlite3", "-bail", copy], input=done.out, text=True, check=True)
    assert db("downgrade", revision, "--yes").status == 0
    for query in (
        "SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY 1",
        "SELECT * FROM alembic_version",
    ):
        assert rows(Path(copy), query) == rows(db.path, query)
