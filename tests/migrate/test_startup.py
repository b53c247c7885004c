"""A start locks, inspects and migrates; at head it only reads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite import integrity, lock, locked
from nextcloud_mcp_server.backends.sqlite.integrity import Checked
from nextcloud_mcp_server.migrate import startup
from nextcloud_mcp_server.migrate.plan import Action
from nextcloud_mcp_server.schema.history import load_history
from tests.cli.places import execute, rows
from tests.migrate.databases import in_thread, versions
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.child import run_python
from tests.support.errors import attempt, refused
from tests.support.files import names
from tests.support.revisions import HEAD
from tests.support.scripts import add_revision, sql_revision
from tests.support.shapes import Shape, at
from tests.support.snapshot import snapshot

_AT_HEAD = """
import json, os, sys
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate.startup import prepare
prepare(connect(sys.argv[1]))
heavy = ("alembic", "mako", "sqlalchemy", "aiosqlite", "asyncio.base_events", "cryptography")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_a_start_at_head_only_reads(path: Path) -> None:
    """No byte, mode or time changes, only the lock is created, nothing heavy is imported."""
    prepare(path)
    (path.parent / "tokens.db.lock").unlink()
    path.chmod(0o640)
    with invariants.unchanged(path):
        # The worker needs the package of the event loop, which is not heavy.
        assert set(json.loads(run_python(_AT_HEAD, path))) <= {"asyncio.base_events"}
    assert names(path.parent) - {"tokens.db-shm", "tokens.db-wal"} == {
        "tokens.db",
        "tokens.db.lock",
    }
    lock = path.with_name("tokens.db.lock").stat()
    assert (lock.st_mode & 0o777, lock.st_size) == (0o600, 0)


def test_every_step_is_under_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inspection, verification of the keys, migration and the switch to WAL are under the lock."""
    at("006").write(path)
    # Without one, a start looks once more before the lock (see tests/cli/test_nothing_left.py).
    lock.lock_path(path).touch()
    calls: list[tuple[str, str]] = []

    def spied(module: object, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: object, **options: object) -> object:
            calls.append((name, _lock_code(path)))
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    spied(locked, "inspect_file")
    spied(integrity, "check_file")
    spied(locked, "use_wal")
    spied(startup, "_migrate")
    prepare(path, verify=lambda *_: calls.append(("verify", _lock_code(path))))
    # The first inspection shares the lock; the other steps have it alone. The second check is
    # of the backup.
    steps = "inspect_file inspect_file check_file verify _migrate check_file use_wal"
    names = steps.split()
    assert calls == [(name, "lock-timeout") for name in names]
    assert _lock_code(path) == ""


def test_starts_at_head_do_not_wait_for_each_other(path: Path) -> None:
    """A start with nothing to do shares the lock; a start that changes the file does not."""
    at("010").write(path)
    prepare(path)

    def meanwhile() -> None:
        assert in_thread(lambda: prepare(path, lock_timeout=0)).action is Action.NOTHING
        assert _lock_code(path) == "lock-timeout"

    assert prepare(path, then=meanwhile).action is Action.NOTHING
    assert _lock_code(path) == ""


def _lock_code(path: Path) -> str:
    """Return the error code of the lock for another thread, "" if the lock is free."""

    def take() -> None:
        with lock.guard(path, 0):
            pass

    error = in_thread(lambda: attempt(take))
    return error.code if error else ""


def test_a_new_database_is_private_from_its_first_byte(path: Path) -> None:
    """File, journals and lock are 0600 with any umask, and the folder is created."""
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


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (at("003"), f"upgrading it from revision 003 to {HEAD}"),
        (at("003").unversioned(), f"stamping it with 003 and upgrading it to {HEAD}"),
    ],
    ids=["recorded", "unversioned"],
)
def test_the_plan_is_logged(
    shape: Shape, words: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A database without a version row is stamped first."""
    shape.write(path)
    with caplog.at_level("INFO", logger=startup.logger.name):
        prepare(path)
    assert f"{path}: {words}" in caplog.messages


def test_a_virtual_table_whose_module_is_missing_stays(path: Path) -> None:
    """An operator's virtual table that this SQLite cannot read is not damage."""
    at("006").also(
        "PRAGMA writable_schema=ON",
        "INSERT INTO sqlite_master VALUES "
        "('table', 'op_search', 'op_search', 0, 'CREATE VIRTUAL TABLE op_search USING none(a)')",
    ).write(path)
    assert prepare(path).action is Action.UPGRADE
    assert ("op_search",) in rows(path, "SELECT name FROM sqlite_master")


def test_a_change_by_another_program_is_detected(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the schema changes between inspection and transaction, nothing is migrated."""
    at("006").write(path)

    def add_column(file: Path) -> Checked:
        execute(file, "ALTER TABLE app_passwords ADD COLUMN meanwhile TEXT")
        return Checked()

    monkeypatch.setattr(integrity, "check_file", add_column)
    refused(lambda: prepare(path), "lock-timeout")
    assert versions(path) == ["006"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_database(path: Path) -> None:
    """A database is migrated and backed up in pages, never as a whole in memory."""
    at("006").write(path)
    execute(
        path,
        "CREATE TABLE op_big (a BLOB)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
        "INSERT INTO op_big SELECT randomblob(1000000) FROM n",
    )
    # A start says that it makes an open file private.
    path.chmod(0o600)
    # Not getrusage(): it begins with the size of the process that forked.
    code = (
        "import sys; from pathlib import Path; "
        "from tests.support.by_path import prepare; prepare(Path(sys.argv[1])); "
        "[peak] = [l for l in open('/proc/self/status') if l.startswith('VmHWM')]; "
        "print(peak.split()[1])"
    )
    assert int(run_python(code, path)) < 150_000, "kilobytes, for a database of 200 000"


@pytest.mark.parametrize("index", sorted(load_history().structure(HEAD).indexes))
def test_an_index_that_an_operator_dropped_is_added(path: Path, index: str) -> None:
    """A start at head creates each missing index, and the next one has nothing to do."""
    prepare(path)
    execute(path, f"DROP INDEX {index}")
    prepare(path)
    assert index in snapshot(path).indexes
    assert prepare(path).action is Action.NOTHING


def test_a_new_revision_is_run_before_its_structure_is_written(
    own_scripts: Path, path: Path
) -> None:
    """In a checkout a developer's new migration runs at the next start."""
    assert prepare(path).after == "010"
    add_revision(own_scripts, sql_revision("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
    assert prepare(path).steps == ("101",)
    assert prepare(path).action is Action.NOTHING
    assert versions(path) == ["101"]


@pytest.mark.parametrize("revision", ["009", HEAD])
def test_a_trigger_on_a_table_of_this_program_is_named(
    revision: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It can undo what is stored, so each start says so, before a migration and at head."""
    at("009").write(path)
    if revision == HEAD:
        prepare(path)
    execute(path, "CREATE TRIGGER op_t AFTER INSERT ON audit_logs BEGIN SELECT 1; END")
    caplog.clear()
    prepare(path)
    assert "triggers that this program did not make (op_t on audit_logs)" in caplog.text
