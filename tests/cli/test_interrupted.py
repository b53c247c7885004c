"""Ctrl-C in the middle of a command: what it has left is looked for, and said."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.places import Shelf, rows
from tests.support.revisions import BEFORE, HEAD

#: What is typed, on a database in which state, what it is doing meanwhile, and where that ends.
CASES = [
    ("upgrade", "behind", "migrate.verify.broken_references", "at revision 007"),
    ("upgrade", "behind", "migrate.startup.use_wal", f"at revision {HEAD}"),
    ("upgrade", "missing", "migrate.verify.broken_references", "without a recorded revision"),
    ("downgrade --yes", "at-head", "migrate.verify.broken_references", f"at revision {HEAD}"),
    ("downgrade --yes", "at-head", "migrate.change.use_wal", f"at revision {BEFORE}"),
    ("downgrade --yes -r base", "at-head", "migrate.change.use_wal", "without a recorded revision"),
    (f"stamp {BEFORE}", "at-head", "migrate.change.use_wal", f"at revision {BEFORE}"),
    ("repair --yes", "two-rows", "maintenance.repair.use_wal", f"at revision {HEAD}"),
]


def interrupt(*_: object) -> str:
    """Send what a terminal sends for Ctrl-C."""
    signal.raise_signal(signal.SIGINT)
    return ""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}, {case[2]}")
def test_it_says_at_which_revision_the_database_is(
    case: tuple[str, ...],
    shelf: Shelf,
    database: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before the commit the old one, after it the new one; the exit status is a shell's."""
    words, state, meanwhile, now = case
    shelf.put(state, database)
    monkeypatch.setattr(f"nextcloud_mcp_server.{meanwhile}", interrupt)
    done = command("db", *words.split(), "-d", str(database), "--json")
    assert done.status == 130
    assert json.loads(done.out)["error"] == {
        "code": "interrupted",
        "message": f"Interrupted; what was not finished was rolled back, and {database} is {now}.",
        "remedy": "Run the command again.",
    }
    found = rows(database, "SELECT version_num FROM alembic_version") if "at " in now else []
    assert found == [(now.removeprefix("at revision "),)] * len(found)


def test_a_restore_says_so_too(
    shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was restored may be at any revision."""
    saved = shelf.put("behind", database.with_name("saved.db"))
    shelf.put("at-head", database)
    monkeypatch.setattr("nextcloud_mcp_server.maintenance.restore.use_wal", interrupt)
    done = command("db", "restore", str(saved), "-d", str(database), "--yes")
    assert done.status == 130
    assert f", and {database} is at revision 007. [interrupted]\n" in done.err


@pytest.mark.parametrize("state", ["two-rows", "corrupt"])
def test_of_what_has_no_one_revision_none_is_said(
    state: str, shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor of a file that cannot be read."""
    shelf.put(state, database)
    monkeypatch.setattr("nextcloud_mcp_server.migrate.startup.look_under_lock", interrupt)
    done = command("db", "upgrade", "-d", str(database))
    assert done.status == 130
    assert "error: Interrupted; what was not finished was rolled back. [interrupted]\n" in done.err


def test_where_nothing_is_changed_no_revision_is_said(
    shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rehearsal and a backup are gone, and the database is what it was."""
    shelf.put("behind", database)
    monkeypatch.setattr("nextcloud_mcp_server.backends.sqlite.backup.check_pages", interrupt)
    for words in (["upgrade", "--dry-run"], ["backup"]):
        done = command("db", *words, "-d", str(database))
        assert done.status == 130
        assert "what was not finished was rolled back. [interrupted]\n" in done.err
