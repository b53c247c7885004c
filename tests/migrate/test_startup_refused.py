"""What a start refuses stays as it was, and what a crash has left is rolled back."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.migrate.databases import sql, versions
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.errors import refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.shapes import at
from tests.support.snapshot import snapshot


def _write_text(path: Path) -> None:
    path.write_text("not a database" * 99)


def _cut_off(path: Path) -> None:
    at("006").write(path)
    os.truncate(path, path.stat().st_size - 100)


REFUSALS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "foreign": ("foreign", lambda p: sql(p, "CREATE TABLE notes (id INTEGER PRIMARY KEY)")),
    "unknown": ("unknown-revision", lambda p: at("010").recording("999").write(p)),
    "ambiguous": ("ambiguous-version", lambda p: at("006").recording("003", "006").write(p)),
    "inconsistent": ("inconsistent", lambda p: at("006").without("refresh_tokens").write(p)),
    "text": ("not-a-database", _write_text),
    "cut off": ("corrupt", _cut_off),
    "wal": (
        "unknown-revision",
        lambda p: at("010").recording("999").write(p, ["journal_mode=WAL"]),
    ),
}


@pytest.mark.parametrize(("code", "make"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_refused_file_is_what_it_was(code: str, make: Callable[[Path], None], path: Path) -> None:
    """Bytes, mode and time of a refused file stay, and no backup or key appears."""
    make(path)
    path.chmod(0o444)
    os.utime(path, ns=(1_600_000_000_000_000_000, 1_600_000_000_000_000_000))
    before = invariants.disk(path)
    assert refused(lambda: prepare(path)).code == code
    invariants.untouched(before, invariants.disk(path))
    extra = names(path.parent) - {"tokens.db", "tokens.db.lock", "tokens.db-wal", "tokens.db-shm"}
    assert extra == set()


def test_a_hot_journal_is_rolled_back_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that a crashed writer left half-written is as it was before, then upgraded."""
    at("006").write(path)
    before = snapshot(path)
    _crash_in_a_write(path)
    assert invariants.companions(path) == {"-journal"}
    with caplog.at_level(logging.WARNING):
        outcome = prepare(path)
    assert "has the journal of a crashed write" in caplog.text
    assert (outcome.before, outcome.after) == ("006", HEAD)
    assert len(snapshot(path).rows["refresh_tokens"]) == len(before.rows["refresh_tokens"])


def test_a_hot_journal_of_a_linked_database_is_found(path: Path) -> None:
    """SQLite's journal lies beside the file, wherever the link lies."""
    at("006").write(path)
    _crash_in_a_write(path)
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    assert prepare(link).before == "006"
    assert names(link.parent) == {"data", "link.db"}


def _crash_in_a_write(path: Path) -> None:
    code = (
        "import os, signal, sqlite3, sys; "
        "c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA cache_size=1'); c.execute('BEGIN IMMEDIATE'); "
        "c.execute('DELETE FROM audit_logs'); c.execute('DELETE FROM refresh_tokens'); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_target_below_the_database_is_refused(path: Path) -> None:
    """A start never goes down, and says what does."""
    at("006").write(path)
    error = refused(lambda: prepare(path, target="003"))
    assert error.code == "bad-input"
    assert "db downgrade" in error.remedy
    assert versions(path) == ["006"]
