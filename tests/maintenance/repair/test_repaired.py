"""A repair fixes what the doctor marks as fixable, and keeps every row."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.integrity import Checked, check_file
from nextcloud_mcp_server.filesystem.files import ABANDONED_AFTER
from nextcloud_mcp_server.maintenance.doctor.finding import Level
from nextcloud_mcp_server.maintenance.doctor.run import diagnose
from nextcloud_mcp_server.maintenance.repair import Repaired
from nextcloud_mcp_server.settings import Settings
from tests.cli.places import crash, execute
from tests.maintenance.conftest import run_repair
from tests.support import invariants
from tests.support.by_path import prepare
from tests.support.contents import KEY
from tests.support.files import flip
from tests.support.present import present
from tests.support.revisions import HEAD
from tests.support.shapes import Shape, at
from tests.support.snapshot import snapshot

UNVERSIONED = at("006").unversioned()
ROW = "INSERT INTO alembic_version VALUES "
TABLE = "CREATE TABLE alembic_version (version_num TEXT)"
OTHER_TABLE = "CREATE TABLE alembic_version (version TEXT)"
LEFTOVER = "CREATE TABLE _alembic_tmp_oauth_sessions (session_id TEXT)"
GAPS = "added table browser_sessions, column oauth_sessions.nonce"

#: By name: a database that a repair brings to head, and a line that it prints.
REPAIRED: dict[str, tuple[Shape, str]] = {
    "gaps": (at("009").narrowed("oauth_sessions", "nonce").without("browser_sessions"), GAPS),
    "two rows": (at("006").recording("005", "006"), "recorded revision 006"),
    "empty": (at("006").recording(), "recorded revision 006"),
    "null": (UNVERSIONED.also(TABLE, f"{ROW}(NULL)"), "recorded revision 006"),
    "doubled": (UNVERSIONED.also(TABLE, f"{ROW}('006'), ('006')"), "put the version table"),
    "another column": (UNVERSIONED.also(OTHER_TABLE), "recorded revision 006"),
    "mistyped": (at("006").recording("6"), "recorded revision 006"),
    "leftover": (at("006").also(LEFTOVER), "dropped the empty _alembic_tmp_oauth_sessions"),
    "unversioned": (at("001").unversioned(), "recorded revision 001"),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_it_ends_at_head_with_every_row(name: str, path: Path) -> None:
    """Every row is kept, the backup has the old content, and a second repair finds nothing."""
    shape, line = REPAIRED[name]
    shape.write(path)
    before = snapshot(path)
    done = run_repair(path)
    assert any(one.startswith(line) for one in done.done), done.done
    after = snapshot(path)
    invariants.complete_at_head(after)
    for table in ("refresh_tokens", "audit_logs", "oauth_clients"):
        rows = before.rows[table]
        there = [{c: row[c] for c in rows[0]} for row in after.rows[table]]
        assert sorted(map(repr, there)) == sorted(map(repr, rows)), table
    invariants.same_content(before, snapshot(present(done.backup)))
    found = diagnose(Settings(path, (KEY,)), full=True)
    assert found.fixable == ()
    assert found.worst is not Level.ERROR
    assert run_repair(path) == Repaired(path, ())


def test_a_leftover_with_rows_stays(path: Path) -> None:
    """A table with rows is never dropped."""
    left = "CREATE TABLE _alembic_tmp_oauth_sessions AS SELECT * FROM oauth_sessions"
    at("010").also(left).write(path)
    rows = len(snapshot(path).rows["oauth_sessions"])
    run_repair(path)
    prepare(path)
    assert len(snapshot(path).rows["_alembic_tmp_oauth_sessions"]) == rows


@pytest.mark.parametrize("revision", ["010", HEAD])
def test_a_table_that_a_revision_drops_is_dropped(revision: str, path: Path) -> None:
    """The backup keeps its rows."""
    at("009").recording("010").write(path)
    if revision == HEAD:
        prepare(path)
    before = snapshot(path)
    assert before.rows["registered_webhooks"]
    done = run_repair(path)
    assert "dropped registered_webhooks, as its revision does" in done.done
    kept = snapshot(present(done.backup)).rows["registered_webhooks"]
    assert kept == before.rows["registered_webhooks"]
    assert "registered_webhooks" not in snapshot(path).rows
    assert run_repair(path) == Repaired(path, ())


def test_a_damaged_index_is_made_again(path: Path) -> None:
    """The index comes from its table again, and the damaged file is kept as it was."""
    at("009").write(path, ["page_size=4096"])
    whole = snapshot(path)
    flip(path, "idx_audit_user_timestamp")
    hurt = path.read_bytes()
    done = run_repair(path)
    assert "rebuilt its damaged indexes" in done.done
    assert done.kept is not None
    # SQLite counts the copying as a change, in the header.
    assert done.kept.read_bytes()[100:] == hurt[100:]
    assert stat.S_IMODE(done.kept.stat().st_mode) == 0o600
    assert check_file(path, "integrity_check") == Checked()
    invariants.same_content(whole, snapshot(path))


def test_a_crashed_writer_is_rolled_back_and_kept(path: Path) -> None:
    """The journal and the file are kept as they were found, then the journal is rolled back."""
    live = path.with_name("live.db")
    at("009").write(live)
    crash(live, path)
    hurt = path.read_bytes()
    done = run_repair(path)
    assert done.done[0] == "rolled back the journal of a crashed writer"
    assert done.kept is not None
    assert done.kept.read_bytes() == hurt
    assert Path(f"{done.kept}-journal").stat().st_size > 0
    assert len(snapshot(path).rows["refresh_tokens"]) == len(snapshot(live).rows["refresh_tokens"])


def test_files_become_private_and_incomplete_ones_go(path: Path) -> None:
    """Files become private, and old incomplete files are deleted."""
    at("010").write(path)
    prepare(path)
    path.chmod(0o644)
    old, young = (path.with_name(f".tokens.db.backup-{n}.partial") for n in ("old", "young"))
    other = path.with_name(".other.db.backup-x.partial")
    hours = time.time() - 2 * ABANDONED_AFTER
    for file in (old, young, other):
        file.touch()
    for file in (old, other):
        os.utime(file, (hours, hours))
    done = run_repair(path)
    assert done.done == ("made tokens.db private (0600)", f"deleted the incomplete {old.name}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


def test_the_journal_becomes_wal(path: Path) -> None:
    """At head in another journal mode, that is all there is to do."""
    at("010").write(path)
    prepare(path)
    path.chmod(0o600)
    execute(path, "PRAGMA journal_mode=DELETE")
    assert run_repair(path) == Repaired(path, ("switched its journal to wal",))


#: The shape of a draft that was never released: columns that no writer of ours fills.
DRAFT = """
CREATE TABLE batch_ocr_jobs (user_id TEXT NOT NULL, doc_id TEXT NOT NULL, doc_type TEXT NOT NULL,
etag TEXT NOT NULL, job_id TEXT NOT NULL, status TEXT NOT NULL, submitted_at BIGINT NOT NULL,
updated_at BIGINT NOT NULL, UNIQUE (user_id, doc_id, doc_type, etag))
"""


def test_a_draft_is_made_again(path: Path) -> None:
    """A cache in the shape of a draft gets its released shape."""
    at("008").without("batch_ocr_jobs").also(DRAFT).write(path)
    done = run_repair(path)
    assert "recreated batch_ocr_jobs in its released shape" in done.done
    invariants.complete_at_head(snapshot(path))
