"""The path of a start: locked, looked at, migrated, told; and what it costs."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import database, lock, locked
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import startup
from nextcloud_mcp_server.migrate.plan import Action, State
from nextcloud_mcp_server.migrate.startup import Outcome
from nextcloud_mcp_server.schema.history import load_history
from tests.migrate.databases import sql, versions
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.errors import attempt, refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.scripts import add_revision, sql_revision
from tests.support.shapes import Shape, at
from tests.support.unprivileged import ROOT

_AT_HEAD = """
import json, os, sys
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate.startup import prepare
prepare(connect(sys.argv[1]))
heavy = ("alembic", "mako", "sqlalchemy", "aiosqlite", "asyncio.base_events", "cryptography")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_a_start_at_head_reads_and_no_more(path: Path) -> None:
    """No byte, mode or time changes, nothing but the lock is made, nothing heavy is imported."""
    prepare(path)
    (path.parent / "tokens.db.lock").unlink()
    path.chmod(0o640)
    before = invariants.disk(path)
    done = subprocess.run(
        [sys.executable, "-c", _AT_HEAD, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    # The event loop's package is there for the worker, its loops are nothing heavy.
    assert set(json.loads(done.stdout)) <= {"asyncio.base_events"}
    invariants.untouched(before, invariants.disk(path))
    assert names(path.parent) - {"tokens.db-shm", "tokens.db-wal"} == {
        "tokens.db",
        "tokens.db.lock",
    }
    lock = path.with_name("tokens.db.lock").stat()
    assert (lock.st_mode & 0o777, lock.st_size) == (0o600, 0)


def test_the_lock_is_held_while_the_work_is_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look, the proof of the keys, the migration and the switch to WAL are under the lock."""
    at("006").write(path)
    seen: list[str] = []

    def spied(module: object, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: object, **options: object) -> object:
            error = refused(lambda: _take(path))
            seen.append(f"{name}:{error.code}")
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    spied(locked, "look")
    spied(database, "check_pages")
    spied(locked, "use_wal")
    spied(startup, "_migrate")
    prepare(path, verify=lambda _: seen.append(f"unlock:{refused(lambda: _take(path)).code}"))
    # The first look shares the lock with others who only look; what follows is alone with it.
    calls = ("look", "look", "check_pages", "unlock", "_migrate", "use_wal")
    assert seen == [f"{name}:lock-timeout" for name in calls]
    _take(path)


def test_starts_at_head_do_not_wait_for_each_other(path: Path) -> None:
    """Whoever finds nothing to do shares the lock; whoever has to change the file is alone."""
    at("010").write(path)
    prepare(path)

    def meanwhile() -> None:
        done = []
        thread = threading.Thread(target=lambda: done.append(prepare(path, lock_timeout=0).action))
        thread.start()
        thread.join()
        assert done == [Action.NOTHING]
        assert refused(lambda: _take(path)).code == "lock-timeout"

    assert prepare(path, then=meanwhile).action is Action.NOTHING
    _take(path)


def _take(path: Path) -> None:
    def take() -> None:
        with lock.guard(path, 0):
            pass

    # In another thread: the lock knows when its own thread asks for it twice.
    answers: list[TokenStorageError | None] = []
    thread = threading.Thread(target=lambda: answers.append(attempt(take)))
    thread.start()
    thread.join()
    if isinstance(answers[0], TokenStorageError):
        raise answers[0]


def test_a_new_database_is_private_from_its_first_byte(path: Path) -> None:
    """File, journals and lock are 0600 whatever the umask, and the folder is made."""
    deep = path.parent / "a" / "b" / "tokens.db"
    before = os.umask(0)
    try:
        outcome = prepare(deep)
    finally:
        os.umask(before)
    assert outcome.action is Action.CREATE
    assert outcome.backup is None
    assert {p.stat().st_mode & 0o777 for p in deep.parent.iterdir()} == {0o600}
    assert deep.parent.stat().st_mode & 0o777 == 0o700


def test_an_upgrade_keeps_the_mode_of_the_file(path: Path) -> None:
    """A file that a group may read stays so; its backup is private."""
    at("009").write(path)
    path.chmod(0o640)
    outcome = prepare(path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert outcome.backup is not None
    assert outcome.backup.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("target", ["003", "006", "010"])
def test_a_start_ends_at_its_target(target: str, path: Path) -> None:
    """A target below head is reached, recorded, and kept by the next start for the same."""
    assert prepare(path, target=target).after == target
    assert versions(path) == [target]
    assert prepare(path, target=target).action is Action.NOTHING


def test_an_outcome_says_what_was_done(path: Path) -> None:
    """State, revisions, steps, stamp and backup of a start are what happened."""
    at("001").unversioned().write(path)
    outcome = prepare(path)
    assert isinstance(outcome, Outcome)
    assert outcome.state is State.PRE_ALEMBIC
    assert (outcome.before, outcome.after, outcome.stamped) == ("001", HEAD, True)
    assert outcome.steps == load_history().revisions[1:]
    assert outcome.backup is not None
    assert outcome.backup.is_file()
    assert outcome.journal_mode == "wal"
    assert outcome.seconds > 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (at("003"), f"upgrading it from revision 003 to {HEAD}"),
        (at("003").unversioned(), f"stamping it with 003 and upgrading it to {HEAD}"),
    ],
    ids=["recorded", "unversioned"],
)
def test_what_is_about_to_be_done_is_logged(
    shape: Shape, words: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was never recorded is stamped, and comes from no revision."""
    shape.write(path)
    with caplog.at_level("INFO", logger=startup.logger.name):
        prepare(path)
    assert f"{path}: {words}" in caplog.messages


def test_a_virtual_table_whose_module_is_missing_stays(path: Path) -> None:
    """An operator's virtual table, which this SQLite cannot read, is nobody's damage."""
    at("006").also(
        "PRAGMA writable_schema=ON",
        "INSERT INTO sqlite_master VALUES "
        "('table', 'op_search', 'op_search', 0, 'CREATE VIRTUAL TABLE op_search USING none(a)')",
    ).write(path)
    assert prepare(path).action is Action.UPGRADE
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(
            "SELECT count(*) FROM sqlite_master WHERE name = 'op_search'"
        ).fetchone() == (1,)


def test_another_program_that_migrates_without_the_lock_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed between the look and the transaction is not migrated on a stale plan."""
    at("006").write(path)

    def meddle(file: Path) -> str:
        sql(file, "ALTER TABLE app_passwords ADD COLUMN meanwhile TEXT")
        return ""

    monkeypatch.setattr(database, "check_pages", meddle)
    error = refused(lambda: prepare(path))
    assert error.code == "lock-timeout"
    assert versions(path) == ["006"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_database(path: Path) -> None:
    """A database is migrated and backed up in pages, never as a whole in memory."""
    at("006").write(path)
    sql(
        path,
        "CREATE TABLE op_big (a BLOB)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
        "INSERT INTO op_big SELECT randomblob(1000000) FROM n",
    )
    # Not what getrusage() says: that begins with the size of the process that forked.
    code = (
        "import sys; from pathlib import Path; "
        "from tests.support.by_path import prepare; prepare(Path(sys.argv[1])); "
        "[peak] = [l for l in open('/proc/self/status') if l.startswith('VmHWM')]; "
        "print(peak.split()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert int(done.stdout) < 150_000, "kilobytes, for a database of 200 000"


def test_a_new_revision_is_run_before_its_structure_is_written(
    own_scripts: Path, path: Path
) -> None:
    """In a checkout a developer's new migration runs at the next start."""
    assert prepare(path).after == "010"
    add_revision(own_scripts, sql_revision("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
    assert prepare(path).steps == ("101",)
    assert prepare(path).action is Action.NOTHING
    assert versions(path) == ["101"]
