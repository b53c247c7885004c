"""The path that every start travels: what it changes, what it waits for, what it says."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from nextcloud_mcp_server import startup
from nextcloud_mcp_server.backends.sqlite import files, guard
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.history import load_history
from nextcloud_mcp_server.startup import Outcome, prepare
from nextcloud_mcp_server.state import Action, State
from tests.support import promises
from tests.support.errors import attempt, refused
from tests.support.folders import names
from tests.support.nobody import ROOT, as_nobody, open_folder
from tests.support.scripts import add_revision, sql_revision
from tests.support.shapes import at
from tests.support.snapshot import snapshot

HEAD = load_history().head


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where this test's database lies; nothing else is in its folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "tokens.db"


def versions(path: Path) -> list[str]:
    """The version rows of a file."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]


_AT_HEAD = """
import json, os, sys
from pathlib import Path
from nextcloud_mcp_server.startup import prepare
prepare(Path(sys.argv[1]))
heavy = ("alembic", "mako", "sqlalchemy", "aiosqlite", "asyncio.base_events", "cryptography")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_a_start_at_head_reads_and_no_more(path: Path) -> None:
    """No byte, mode or time changes, nothing but the lock is made, nothing heavy is imported."""
    prepare(path)
    (path.parent / "tokens.db.lock").unlink()
    path.chmod(0o640)
    before = promises.disk(path)
    done = subprocess.run(
        [sys.executable, "-c", _AT_HEAD, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    # The event loop's package is there for the worker, its loops are nothing heavy.
    assert set(json.loads(done.stdout)) <= {"asyncio.base_events"}
    promises.untouched(before, promises.disk(path))
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

    def spied(name: str) -> None:
        original = getattr(startup, name)

        def call(*arguments: object, **options: object) -> object:
            error = refused(lambda: _take(path))
            seen.append(f"{name}:{error.code}")
            return original(*arguments, **options)

        monkeypatch.setattr(startup, name, call)

    for name in ("look", "check_pages", "use_wal", "_migrate"):
        spied(name)
    prepare(path, unlock=lambda _: seen.append(f"unlock:{refused(lambda: _take(path)).code}"))
    assert seen == [
        f"{name}:lock-timeout" for name in ("look", "check_pages", "unlock", "_migrate", "use_wal")
    ]
    _take(path)


def _take(path: Path) -> None:
    def take() -> None:
        with guard.guard(path, 0):
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


def _write_text(path: Path) -> None:
    path.write_text("not a database" * 99)


def _sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def _cut_off(path: Path) -> None:
    at("006").write(path)
    os.truncate(path, path.stat().st_size - 100)


REFUSALS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "foreign": ("foreign", lambda p: _sql(p, "CREATE TABLE notes (id INTEGER PRIMARY KEY)")),
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
    before = promises.disk(path)
    assert refused(lambda: prepare(path)).code == code
    promises.untouched(before, promises.disk(path))
    extra = names(path.parent) - {"tokens.db", "tokens.db.lock", "tokens.db-wal", "tokens.db-shm"}
    assert extra == set()


def test_a_hot_journal_is_rolled_back_and_said(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that a crashed writer left half-written is as it was before, then upgraded."""
    at("006").write(path)
    before = snapshot(path)
    _crash_in_a_write(path)
    assert promises.companions(path) == {"-journal"}
    with caplog.at_level(logging.WARNING):
        outcome = prepare(path)
    assert "in the middle of a write" in caplog.text
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


@contextmanager
def read_only_folder(revision: str, *, mode: int = 0o555) -> Iterator[Path]:
    """A database in WAL mode, closed cleanly, where another user may only read."""
    with open_folder() as folder:
        path = folder / "tokens.db"
        prepare(path) if revision == HEAD else at(revision).write(path, ["journal_mode=WAL"])
        for file in folder.iterdir():
            file.chmod(0o644)
        folder.chmod(mode)
        yield path


_REPORT = """
try:
    outcome = prepare(Path(sys.argv[1]))
    print(outcome.action, outcome.warning)
except TokenStorageError as error:
    print(error.code, error.message)
"""


def test_at_head_in_a_read_only_folder_it_starts_with_a_warning() -> None:
    """Where nothing can be locked and nothing has to be done, the start goes on and says so."""
    with read_only_folder(HEAD) as path:
        before = promises.disk(path)
        said = as_nobody(_REPORT, path)
        assert said.startswith("nothing ")
        assert "could not be locked (tokens.db.lock: Permission denied)" in said
        assert promises.disk(path) == before


def test_behind_in_a_read_only_folder_it_refuses() -> None:
    """Where something has to be done and cannot be, the start names folder and reason."""
    with read_only_folder("009") as path:
        before = promises.disk(path)
        said = as_nobody(_REPORT, path)
        assert said.startswith("read-only ")
        assert "Permission denied" in said
        assert promises.disk(path) == before


def test_a_store_in_a_read_only_folder_reads_and_says_why_it_does_not_write() -> None:
    """A start that went on serves what is there; a write is refused by its name."""
    code = """
async def main(path):
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        print(await storage.list_user_ids())
        try:
            await storage.store_refresh_token("alice", "token")
        except TokenStorageError as error:
            print(error.code)
asyncio.run(main(Path(sys.argv[1])))
"""
    with read_only_folder(HEAD) as path:
        before = promises.disk(path)
        assert as_nobody(code, path).splitlines() == ["[]", "read-only"]
        assert promises.disk(path) == before


def test_a_crashed_wal_in_a_read_only_folder_is_not_read_past() -> None:
    """Where rows are in the WAL and it cannot be read, nothing is served without them."""
    with open_folder() as folder:
        other = folder / "other.db"
        at("010", "portable").write(other)
        prepare(other)
        with closing(sqlite3.connect(other, isolation_level=None)) as connection:
            connection.execute("DELETE FROM refresh_tokens WHERE user_id = 'alice'")
            path = folder / "data" / "tokens.db"
            path.parent.mkdir()
            for suffix in ("", "-wal"):
                shutil.copy(f"{other}{suffix}", f"{path}{suffix}")
                Path(f"{path}{suffix}").chmod(0o644)
        path.parent.chmod(0o555)
        assert as_nobody(_REPORT, path).startswith("read-only ")


def test_without_space_for_the_lock_nothing_is_started(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk on which no lock file can be made is told as what it is."""
    at("006").write(path)
    before = promises.disk(path)
    real_open = os.open

    def full(name: str | bytes | os.PathLike[str], flags: int, *rest: int) -> int:
        if os.fspath(name) == str(guard.lock_path(path)):
            raise OSError(28, "No space left on device", str(name))
        return real_open(name, flags, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        error = refused(lambda: prepare(path))
    assert error.code == "disk-full"
    assert promises.disk(path) == before


@pytest.mark.parametrize("number", [38, 37, 95, 22])
def test_a_file_system_that_cannot_lock_is_told(
    number: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without flock a database at head starts with a warning, and every other one is refused."""
    at("006").write(path)
    prepare(path)
    old = path.with_name("old.db")
    at("006").write(old)
    before = promises.disk(old)

    def no_lock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_lock)
    assert os.strerror(number) in prepare(path).warning
    assert refused(lambda: prepare(old)).code == "lock-unavailable"
    promises.untouched(before, promises.disk(old))


def test_a_database_on_a_network_share_is_kept_out_of_wal(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a network file system the journal mode is DELETE, and the next start asks for no more."""
    monkeypatch.setattr(files, "on_network", lambda _: True)
    assert prepare(path).journal_mode == "delete"
    assert "network file system" in caplog.text
    again = prepare(path)
    assert (again.action, again.journal_mode) == (Action.NOTHING, "delete")


def test_a_database_that_came_to_a_network_share_leaves_wal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At head and in WAL on a network file system, it is taken out of WAL once, and stays so."""
    prepare(path)
    monkeypatch.setattr(files, "on_network", lambda *_: True)
    assert [prepare(path).journal_mode for _ in range(2)] == ["delete", "delete"]


def test_a_disk_that_fails_after_the_commit_stops_no_start(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where only the switch to WAL fails, the migrated database is served in its old mode."""
    at("009").write(path)
    real = sqlite3.connect

    class Failing(sqlite3.Connection):
        def execute(self, sql: str, *_: object) -> sqlite3.Cursor:
            if sql == "PRAGMA journal_mode=wal":
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return super().execute(sql)

    monkeypatch.setattr(sqlite3, "connect", lambda p, **o: real(p, factory=Failing, **o))
    outcome = prepare(path)
    assert (outcome.after, outcome.journal_mode) == (HEAD, "delete")
    assert "stays in its journal mode for now (disk I/O error)" in caplog.text


def test_a_database_in_use_keeps_its_journal_until_the_next_start(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that is in the way of WAL costs a warning and no more."""
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.05))
    prepare(path)
    _sql(path, "PRAGMA journal_mode=DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM refresh_tokens").fetchone()
        assert prepare(path).journal_mode == "delete"
    assert prepare(path).journal_mode == "wal"


def test_a_database_that_is_written_to_meanwhile_is_waited_for(path: Path) -> None:
    """A writer that holds the database for a moment delays the migration, and loses nothing."""
    at("006").write(path)
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM refresh_tokens WHERE user_id = 'alice'")

    def end() -> None:
        writer.execute("COMMIT")
        writer.close()

    timer = threading.Timer(0.3, end)
    timer.start()
    outcome = prepare(path)
    timer.join()
    assert outcome.after == HEAD
    assert "alice" not in {r["user_id"][1] for r in snapshot(path).rows["refresh_tokens"]}


@pytest.mark.parametrize("target", ["003", "006", "010"])
def test_a_start_ends_at_its_target(target: str, path: Path) -> None:
    """A target below head is reached, recorded, and kept by the next start for the same."""
    assert prepare(path, target=target).after == target
    assert versions(path) == [target]
    assert prepare(path, target=target).action is Action.NOTHING


def test_a_target_below_the_database_is_refused(path: Path) -> None:
    """A start never goes down, and says what does."""
    at("006").write(path)
    error = refused(lambda: prepare(path, target="003"))
    assert error.code == "bad-input"
    assert "db downgrade" in error.remedy
    assert versions(path) == ["006"]


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


def test_relative_paths_are_used_from_here(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path without a folder names a file in this one."""
    monkeypatch.chdir(path.parent)
    prepare(Path("tokens.db"))
    assert {"tokens.db", "tokens.db.lock"} <= names(path.parent)
    assert prepare(Path("../data/tokens.db")).action is Action.NOTHING


@pytest.mark.parametrize(
    "name",
    [
        "a?b.db",
        "a#b.db",
        "a%20b.db",
        "with space.db",
        "Bücher-用户-🙂.db",
        "a'b\".db",
        "a\nb.db",
        "-d",
    ],
)
def test_any_name_works(name: str, path: Path) -> None:
    """No character of a name is read as anything but a character, at any step of a start."""
    database = path.with_name(name)
    at("006").write(database)
    outcome = prepare(database)
    assert outcome.backup is not None
    assert outcome.backup.name.startswith(f"{name}.backup-")
    assert prepare(database).action is Action.NOTHING
    assert all(other.startswith(name) for other in names(path.parent))


def test_a_name_that_is_no_text_works(path: Path) -> None:
    """Bytes that are no UTF-8 are a name like any other."""
    database = path.with_name(os.fsdecode(b"a\xff\xfe.db"))
    at("006").write(database)
    assert prepare(database).action is Action.UPGRADE
    assert prepare(database).action is Action.NOTHING


def test_two_slashes_are_one_path(path: Path) -> None:
    """A path that begins with two slashes is no host."""
    database = Path(f"/{path}")
    assert str(database).startswith("//")
    assert prepare(database).action is Action.CREATE
    assert prepare(database).action is Action.NOTHING


def test_the_longest_name_can_be_migrated(path: Path) -> None:
    """A name that is let in leaves room for every file that is made beside it."""
    database = path.with_name("x" * 175)
    at("006").write(database)
    outcome = prepare(database)
    assert outcome.backup is not None
    assert refused(lambda: prepare(path.with_name("x" * 176))).code == "bad-path"


def test_two_names_of_one_file_have_one_lock(path: Path) -> None:
    """A link and its file are never migrated at once, and share what lies beside them."""
    at("006").write(path)
    link = path.parent.parent / "link.db"
    link.symlink_to(path)
    with guard.guard(path, 0):
        assert _in_thread(lambda: prepare(link, lock_timeout=0)).code == "lock-timeout"
    outcome = prepare(link)
    assert outcome.backup is not None
    assert outcome.backup.parent == path.parent


def _in_thread(call: Callable[[], object]) -> TokenStorageError:
    errors: list[TokenStorageError] = []
    thread = threading.Thread(target=lambda: errors.append(refused(call)))
    thread.start()
    thread.join()
    return errors[0]


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

    def meddle(database: Path) -> str:
        _sql(database, "ALTER TABLE app_passwords ADD COLUMN meanwhile TEXT")
        return ""

    monkeypatch.setattr(startup, "check_pages", meddle)
    error = refused(lambda: prepare(path))
    assert error.code == "lock-timeout"
    assert versions(path) == ["006"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_database(path: Path) -> None:
    """A database is migrated and backed up in pages, never as a whole in memory."""
    at("006").write(path)
    _sql(
        path,
        "CREATE TABLE op_big (a BLOB)",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200) "
        "INSERT INTO op_big SELECT randomblob(1000000) FROM n",
    )
    # Not what getrusage() says: that begins with the size of the process that forked.
    code = (
        "import sys; from pathlib import Path; "
        "from nextcloud_mcp_server.startup import prepare; prepare(Path(sys.argv[1])); "
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
