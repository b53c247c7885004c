"""`db upgrade --dry-run` and `db upgrade --sql`, word for word."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.places import REFUSED, SERVED, Shelf, fingerprint, listing, process, rows
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
    assert re.fullmatch(
        rf"rehearsed on a copy with \d+ rows in \d+\.\d\d s: it ends at revision {HEAD}", took
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
