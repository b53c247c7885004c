"""Ctrl-C during a command."""

from __future__ import annotations

import json
import signal

import pytest

from nextcloud_mcp_server.backends.sqlite.lock import guard
from tests.cli.conftest import Db
from tests.cli.places import Shelf, listing, rows
from tests.support.revisions import BEFORE, HEAD

#: Where a migration is before its commit, and after it.
REFERENCES = "backends.sqlite.transaction.SqliteTransaction.broken_references"
WAL = "backends.sqlite.locked.use_wal"

#: The arguments, the state, the function that is interrupted, and the revision afterwards.
CASES = [
    ("upgrade", "behind", REFERENCES, "at revision 007"),
    ("upgrade", "behind", WAL, f"at revision {HEAD}"),
    ("upgrade", "missing", REFERENCES, "without a recorded revision"),
    ("downgrade --yes", "at-head", REFERENCES, f"at revision {HEAD}"),
    ("downgrade --yes", "at-head", WAL, f"at revision {BEFORE}"),
    ("downgrade --yes -r base", "at-head", WAL, "without a recorded revision"),
    ("stamp base --yes", "at-head", WAL, "without a recorded revision"),
    ("repair --yes", "two-rows", WAL, f"at revision {HEAD}"),
]


def interrupt(*_: object, **__: object) -> str:
    """Send the signal of Ctrl-C."""
    signal.raise_signal(signal.SIGINT)
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[2]}")
def test_the_error_names_the_revision(
    case: tuple[str, ...], db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the old one before the commit and the new one after it; the exit status is 130."""
    arguments, state, function, now = case
    db.put(state)
    monkeypatch.setattr(f"nextcloud_mcp_server.{function}", interrupt)
    done = db(*arguments.split(), "--json")
    assert done.status == 130
    assert json.loads(done.out)["error"] == {
        "code": "interrupted",
        "message": f"Interrupted. Unfinished changes were rolled back, and {db.path} is {now}.",
        "remedy": "Run the command again.",
    }
    found = rows(db.path, "SELECT version_num FROM alembic_version") if "at " in now else []
    assert found == [(now.removeprefix("at revision "),)] * len(found)


def test_an_interrupted_restore_names_the_revision(
    shelf: Shelf, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored database may be at any revision."""
    saved = shelf.put("behind", db.path.with_name("saved.db"))
    db.put("at-head")
    monkeypatch.setattr(f"nextcloud_mcp_server.{WAL}", interrupt)
    done = db("restore", str(saved), "--yes")
    assert done.status == 130
    assert f", and {db.path} is at revision 007. [interrupted]\n" in done.err


@pytest.mark.parametrize("state", ["two-rows", "corrupt"])
def test_without_a_single_revision_none_is_named(
    state: str, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same holds for a file that cannot be read."""
    db.put(state)
    # With a lock file the database is inspected under the lock only.
    db.path.with_name(f"{db.path.name}.lock").touch(0o600)
    monkeypatch.setattr("nextcloud_mcp_server.backends.sqlite.locked.inspect_file", interrupt)
    done = db("upgrade")
    assert done.status == 130
    assert "error: Interrupted. Unfinished changes were rolled back. [interrupted]\n" in done.err


def test_without_a_change_no_revision_is_named(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rehearsal and a backup do not change the database."""
    db.put("behind")
    monkeypatch.setattr("nextcloud_mcp_server.backends.sqlite.backup.check_pages", interrupt)
    for arguments in (["upgrade", "--dry-run"], ["backup"]):
        done = db(*arguments)
        assert done.status == 130
        assert "Interrupted. Unfinished changes were rolled back. [interrupted]\n" in done.err


@pytest.mark.parametrize(
    ("arguments", "state"),
    [
        ("upgrade", "missing"),
        ("upgrade", "behind"),
        ("downgrade --yes", "at-head"),
        ("stamp base --yes", "at-head"),
        ("repair --yes", "two-rows"),
    ],
)
def test_during_the_wait_for_the_lock_nothing_had_begun(
    arguments: str, state: str, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says that it waited, and does not tell of changes that were rolled back."""
    db.put(state)
    monkeypatch.setattr("nextcloud_mcp_server.forks.sleep", interrupt)
    before = listing(db.path.parent)
    with guard(db.path, 1):
        done = db(*arguments.split())
    assert done.status == 130
    assert (
        "error: Interrupted. It waited for a lock, and nothing was changed. [interrupted]"
        in done.err.splitlines()
    )
    assert [name for name in listing(db.path.parent) if not name.endswith(".lock")] == before
