"""The rehearsal of an upgrade on a copy, and its statements."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.backends.sqlite import locked, size
from nextcloud_mcp_server.backends.sqlite.database import SqliteDatabase
from nextcloud_mcp_server.backends.sqlite.locked import use_wal
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import space
from nextcloud_mcp_server.maintenance import rehearse as module
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.rehearse import rehearse
from nextcloud_mcp_server.migrate.plan import Action, State
from nextcloud_mcp_server.migrate.script import script
from nextcloud_mcp_server.migrate.startup import Outcome
from nextcloud_mcp_server.settings import Settings
from tests.history import released_files, unusual_files
from tests.history.case import Case
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.errors import refuses
from tests.support.facts import HEAD, REVISIONS
from tests.support.scripts import add_revision, sql_revision
from tests.support.shapes import Shape, at
from tests.support.snapshot import snapshot

CASES = [*released_files.pre_alembic(), *released_files.drafts(), *unusual_files.all_cases()]


def refused(path: Path) -> TokenStorageError:
    """Return the error of a rehearsal, which changes nothing."""
    before = everything(path.parent)
    with pytest.raises(TokenStorageError) as caught:
        rehearse(path)
    assert everything(path.parent) == before
    return caught.value


def everything(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return bytes, mode and time of all files, except those that a reader in WAL mode leaves."""
    return {
        str(file.relative_to(folder)): (
            file.read_bytes() if file.is_file() else b"",
            file.stat().st_mode,
            file.stat().st_mtime_ns if file.is_file() else 0,
        )
        for file in folder.rglob("*")
        if not file.name.endswith(("-shm", "-wal"))
    }


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_rehearsal_predicts_the_upgrade_and_changes_nothing(case: Case, path: Path) -> None:
    """Every file is unchanged, and the upgrade then does what the rehearsal returned."""
    case.write(path)
    before, others = invariants.disk(path), everything(path.parent)
    done = rehearse(path)
    invariants.untouched(before, invariants.disk(path))
    assert everything(path.parent) == others
    outcome = prepare(path)
    assert done.todo == outcome.done
    assert done.inspection.finding.state is outcome.state
    if outcome.action is not Action.NOTHING:
        assert done.seconds > 0
        assert outcome.backup is None or done.need.backup >= outcome.backup.stat().st_size


def test_a_rehearsal_counts_rows_time_and_space(path: Path) -> None:
    """The rows of the copy; the backup, the growth and the journal; what is free there."""
    at("007").write(path)
    size = path.stat().st_size
    done = rehearse(path)
    held = snapshot(path).rows
    assert done.rows == sum(len(rows) for table, rows in held.items() if table != "alembic_version")
    assert 2 * size <= done.need.most <= 3 * size + 100_000 + 2 * space.MARGIN
    assert done.need.backup == size + space.MARGIN
    assert done.free == pytest.approx(space.free_bytes(path.parent), rel=0.1)


#: Fills many pages, then changes each of them.
_EVERY_PAGE = sql_revision(
    "CREATE TABLE much (n INTEGER PRIMARY KEY, it TEXT)",
    "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 800) "
    "INSERT INTO much SELECT n, printf('%.*c', 900, 'x') FROM n",
    "UPDATE refresh_tokens SET encrypted_token = encrypted_token || x'00'",
)


def test_an_upgrade_needs_no_more_space_than_reported(
    own_scripts: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder never holds more bytes than the rehearsal returned."""
    at("010").write(path, ["journal_mode=WAL"])
    add_revision(own_scripts, _EVERY_PAGE)
    seen: list[int] = []

    def watched(database: Path) -> str:
        # The most there ever is: all in the -wal, and written into the file from there.
        other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        seen.append(_bytes_in(database.parent))
        return use_wal(database)

    monkeypatch.setattr(locked, "use_wal", watched)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE refresh_tokens SET encrypted_token = zeroblob(200000)")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        told, before = rehearse(path).need, _bytes_in(path.parent)
        seen.clear()
        # While another connection is open, the -wal is not put away.
        prepare(path)
    grown = max(seen) - before
    assert 0.9 * told.most < grown <= told.most


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if not file.name.endswith("-shm"))


def test_the_doctor_the_rehearsal_and_the_upgrade_report_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three have the same bytes for the backup, and the same total without the growth."""
    at("009").write(path)
    need, pages = rehearse(path).need, size.pages_of(path)
    growth = need.most - size.upgrade_needs(pages).most
    [said] = [f for f in diagnose(Settings(path)).findings if f.check == "space"]
    backup = space.readable(need.backup)
    assert f"an upgrade takes {backup} for its backup" in said.message
    assert f"{space.readable(need.most - growth)} in all, and twice what" in said.message
    monkeypatch.setattr(space, "free_bytes", lambda _: need.backup - 1)
    with refuses("disk-full", match=f": {backup} are needed and"):
        prepare(path)


def test_at_head_no_copy_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At head, no copy is made."""
    prepare(path)
    monkeypatch.setattr(module, "prepare", None)
    done = rehearse(path)
    assert (done.todo.action, done.seconds, done.need.most) == (Action.NOTHING, 0.0, 0)


def test_a_database_that_is_not_there_is_rehearsed_and_not_made(tmp_path: Path) -> None:
    """The rehearsal creates neither the file nor its folder."""
    done = rehearse(tmp_path / "not" / "yet" / "tokens.db")
    assert (done.inspection.finding.state, done.todo.action) == (State.NEW, Action.CREATE)
    assert done.todo.steps == REVISIONS
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_stops_at_its_target(path: Path) -> None:
    """Up to a revision, and not to one below."""
    at("003").write(path)
    assert rehearse(path, target="006").todo.steps == ("004", "005", "006")
    with pytest.raises(TokenStorageError, match="newer than 002"):
        rehearse(path, target="002")


def test_an_upgrade_that_would_fail_fails_in_the_rehearsal(own_scripts: Path, path: Path) -> None:
    """The error is the same, and names the database itself; the copy is deleted."""
    at("009").write(path)
    add_revision(own_scripts, sql_revision("CREATE UNIQUE INDEX u ON refresh_tokens (flow_type)"))
    error = refused(path)
    assert error.code == "migration-failed"
    assert error.message.startswith(f"Migrating {path} to 101 failed in revision 101: ")
    assert ".rehearsal-" not in error.message + error.remedy


def test_a_disk_without_room_is_found_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the needed and the free bytes, and no copy was begun."""
    at("009").write(path)
    monkeypatch.setattr(space, "free_bytes", lambda _: 100_000)
    error = refused(path)
    assert error.code == "disk-full"
    assert "are needed and 100.0 kB are free" in error.message


def test_the_copy_is_private(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is 0700 and the copy 0600, whatever the database's own mode is."""
    at("009").write(path)
    path.chmod(0o644)
    modes: list[int] = []

    def looking(place: SqliteDatabase, **options: Any) -> Outcome:
        copy = place.path
        modes.extend(p.stat().st_mode & 0o777 for p in (copy.parent, copy))
        assert copy.parent.parent == path.parent
        return prepare(copy, **options)

    monkeypatch.setattr(module, "prepare", looking)
    rehearse(path)
    assert modes == [0o700, 0o600]


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from nextcloud_mcp_server.maintenance import rehearse
rehearse.prepare = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
rehearse.rehearse(Path(sys.argv[1]))
"""


def test_what_a_killed_rehearsal_left_is_removed_by_the_next(path: Path) -> None:
    """An hour after its last change, and only under a name of ours."""
    at("009").write(path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = path.parent.glob(".tokens.db.rehearsal-*")
    old = time.time() - 3601
    other = path.with_name(".tokens.db.rehearsal-mine")
    other.mkdir()
    for folder in (left, other):
        os.utime(folder, (old, old))
    rehearse(path)
    assert left.is_dir(), "a file in it is younger"
    for file in (*left.iterdir(), left):
        os.utime(file, (old, old))
    rehearse(path)
    assert not left.exists()
    assert other.is_dir()


@pytest.mark.parametrize("revision", [None, *REVISIONS[:-1]])
def test_the_statements_do_what_the_upgrade_does(revision: str | None, path: Path) -> None:
    """From each revision: run by SQLite's shell, the same tables and rows as after an upgrade."""
    if revision is not None:
        at(revision, "portable").write(path)
    other = path.with_name("other.db")
    if path.exists():
        other.write_bytes(path.read_bytes())
        before = invariants.disk(path)
    made = script(connect(path))
    if revision is None:
        assert not path.exists()
    else:
        invariants.untouched(before, invariants.disk(path))
    with closing(sqlite3.connect(other)) as connection:
        connection.executescript(made.sql)
    prepare(path)
    one, two = snapshot(path), snapshot(other)
    assert one.columns == two.columns
    assert one.indexes == two.indexes
    for table in one.rows.keys() - {invariants.JOURNAL}:
        assert one.rows[table] == two.rows[table], table
    assert made.steps == REVISIONS[REVISIONS.index(revision) + 1 if revision else 0 :]


def test_at_head_there_are_no_statements(path: Path) -> None:
    """Nothing to do is an empty script."""
    prepare(path)
    assert script(connect(path)).sql == ""
    at("009").write(path.with_name("old.db"))
    assert "010" not in script(connect(path.with_name("old.db")), target="009").sql


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (at("001").unversioned(), "version table has to be put in order first (it counts as 001)"),
        (at("006").narrowed("oauth_sessions", "nonce"), "added column oauth_sessions.nonce"),
        (at("006").recording("002"), "app_passwords.scopes"),
        (at(HEAD).unversioned(), "version table has to be put in order first"),
    ],
)
def test_where_a_revision_is_not_all_there_are_no_statements(
    shape: Shape, reason: str, path: Path
) -> None:
    """If a stamp or a repair is needed, the refusal has the reason."""
    shape.write(path)
    with invariants.unchanged(path):
        with refuses("bad-input") as error:
            script(connect(path))
        assert reason in error.value.message
        assert "--dry-run" in error.value.remedy
