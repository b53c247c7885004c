"""A repair mends what the doctor calls mendable, keeps every row, and refuses the rest."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from nextcloud_mcp_server import repair as repairs
from nextcloud_mcp_server.backends.sqlite import files
from nextcloud_mcp_server.backends.sqlite.indexes import damage, make_indexes
from nextcloud_mcp_server.doctor import around
from nextcloud_mcp_server.doctor.diagnosis import diagnose
from nextcloud_mcp_server.doctor.finding import Level
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.repair import Repaired, repair
from nextcloud_mcp_server.settings import Settings
from nextcloud_mcp_server.startup import prepare
from tests.cli.places import crash, fingerprint
from tests.support import promises
from tests.support.contents import KEY, OTHER_KEY
from tests.support.errors import refused
from tests.support.folders import names
from tests.support.revisions import NEXT_ID
from tests.support.shapes import Shape, at
from tests.support.snapshot import snapshot

RENAME = "ALTER TABLE refresh_tokens RENAME COLUMN provisioning_client_id TO qrovisioning_client_id"
MISNAMED = "ALTER TABLE refresh_tokens RENAME COLUMN encrypted_token TO encrypted_tokeo"
ADOPTED = "ALTER TABLE refresh_tokens RENAME TO _alembic_tmp_refresh_tokens"
#: The other tables with secrets.
OTHERS = ("app_passwords", "oauth_clients", "login_flow_sessions")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database lies."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder / "tokens.db"


def mend(path: Path) -> Repaired:
    """Repair with the key of the tests."""
    return repair(Settings(path, (KEY,)))


#: By name: a database that a repair brings to head, and words of what is done.
MENDED: dict[str, tuple[Shape, str]] = {
    "gaps": (
        at("009").narrowed("oauth_sessions", "nonce").without("browser_sessions"),
        "added table browser_sessions, column oauth_sessions.nonce",
    ),
    "two rows": (at("006").recording("005", "006"), "recorded revision 006"),
    "empty": (at("006").recording(), "recorded revision 006"),
    "null": (
        at("006")
        .unversioned()
        .also(
            "CREATE TABLE alembic_version (version_num TEXT)",
            "INSERT INTO alembic_version VALUES (NULL)",
        ),
        "recorded revision 006",
    ),
    "doubled": (
        at("006")
        .unversioned()
        .also(
            "CREATE TABLE alembic_version (version_num TEXT)",
            "INSERT INTO alembic_version VALUES ('006'), ('006')",
        ),
        "put the version table in order",
    ),
    "another column": (
        at("006").unversioned().also("CREATE TABLE alembic_version (version TEXT)"),
        "recorded revision 006",
    ),
    "mistyped": (at("006").recording("6"), "recorded revision 006"),
    "misspelt": (at("009").also(RENAME), "renamed refresh_tokens.qrovisioning_client_id back"),
    "leftover": (
        at("006").also("CREATE TABLE _alembic_tmp_oauth_sessions (session_id TEXT)"),
        "dropped the empty _alembic_tmp_oauth_sessions",
    ),
    "unversioned": (at("001").unversioned(), "recorded revision 001"),
}


@pytest.mark.parametrize("name", MENDED)
def test_it_ends_at_head_with_every_row(name: str, path: Path) -> None:
    """Afterwards the database is whole, at head, and every secret that opened still opens."""
    shape, said = MENDED[name]
    shape.write(path)
    before = snapshot(path)
    done = mend(path)
    assert any(line.startswith(said) for line in done.done), done.done
    after = snapshot(path)
    promises.complete_at_head(after)
    renamed = {"qrovisioning_client_id": "provisioning_client_id"}
    for table in ("refresh_tokens", "audit_logs", "oauth_clients"):
        rows = [{renamed.get(c, c): v for c, v in row.items()} for row in before.rows[table]]
        there = [{c: row[c] for c in rows[0]} for row in after.rows[table]]
        assert sorted(map(repr, there)) == sorted(map(repr, rows)), table
    assert done.backup is not None
    assert done.backup.is_file()
    found = diagnose(Settings(path, (KEY,)), full=True)
    assert found.mendable == ()
    assert found.worst is not Level.ERROR


@pytest.mark.parametrize("name", MENDED)
def test_a_second_repair_finds_nothing(name: str, path: Path) -> None:
    """What is mended stays mended, and nothing is backed up for nothing."""
    MENDED[name][0].write(path)
    mend(path)
    assert mend(path) == Repaired(path, ())


@pytest.mark.parametrize("name", MENDED)
def test_the_backup_is_the_database_as_it_was(name: str, path: Path) -> None:
    """Whoever regrets a repair has everything back."""
    MENDED[name][0].write(path)
    before = snapshot(path)
    backup = mend(path).backup
    assert backup is not None
    promises.same_content(before, snapshot(backup))


def test_a_leftover_with_rows_stays(path: Path) -> None:
    """Rows are never dropped, wherever they lie."""
    left = "CREATE TABLE _alembic_tmp_oauth_sessions AS SELECT * FROM oauth_sessions"
    at("010").also(left).write(path)
    rows = len(snapshot(path).rows["oauth_sessions"])
    mend(path)
    prepare(path)
    assert len(snapshot(path).rows["_alembic_tmp_oauth_sessions"]) == rows


def test_a_damaged_index_is_made_anew(path: Path) -> None:
    """The index comes from its table again, and the damaged file is kept as it was."""
    at("009").write(path, ["page_size=4096"])
    whole = snapshot(path)
    flip(path, "idx_audit_user_timestamp")
    hurt = path.read_bytes()
    done = mend(path)
    assert "made its damaged indexes anew" in done.done
    assert done.kept is not None
    # SQLite counts the copying as a change, in the header.
    assert done.kept.read_bytes()[100:] == hurt[100:]
    assert stat.S_IMODE(done.kept.stat().st_mode) == 0o600
    assert damage(path, "integrity_check") == []
    promises.same_content(whole, snapshot(path))


def flip(path: Path, name: str) -> None:
    """Hurt the root page of a table or an index."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        [(page,)] = connection.execute(query, (name,))
    raw = bytearray(path.read_bytes())
    raw[(page - 1) * 4096 + 8] ^= 0xFF
    path.write_bytes(raw)


def test_an_index_that_cannot_be_made_is_left(path: Path) -> None:
    """Where rows deny the index, everything is rolled back, and the reason is given."""
    at("009").write(path)
    before = snapshot(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = "
            "replace(sql, 'expires_at INTEGER', 'expires_at INTEGER NOT NULL') "
            "WHERE name = 'refresh_tokens'"
        )
    hurt = path.read_bytes()
    assert "NULL value in refresh_tokens.expires_at" in make_indexes(path)
    assert path.read_bytes() == hurt
    assert len(snapshot(path).rows["refresh_tokens"]) == len(before.rows["refresh_tokens"])


def test_a_crashed_writer_is_rolled_back_and_kept(path: Path) -> None:
    """The journal and the file are kept as they were found, then the journal is rolled back."""
    live = path.with_name("live.db")
    at("009").write(live)
    crash(live, path)
    hurt = path.read_bytes()
    done = mend(path)
    assert done.done[0] == "rolled back what a crashed writer had left"
    assert done.kept is not None
    assert done.kept.read_bytes() == hurt
    assert Path(f"{done.kept}-journal").stat().st_size > 0
    assert len(snapshot(path).rows["refresh_tokens"]) == len(snapshot(live).rows["refresh_tokens"])


def test_files_become_private_and_half_made_ones_go(path: Path) -> None:
    """What others could read they cannot any more, and old half-made files are deleted."""
    at("010").write(path)
    prepare(path)
    path.chmod(0o644)
    old, young = (path.with_name(f".tokens.db.backup-{n}.partial") for n in ("old", "young"))
    other = path.with_name(".other.db.backup-x.partial")
    hours = time.time() - 2 * around.ABANDONED_AFTER
    for file in (old, young, other):
        file.touch()
    for file in (old, other):
        os.utime(file, (hours, hours))
    done = mend(path)
    assert done.done == ("made tokens.db private (0600)", f"deleted the half-made {old.name}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)


def test_the_journal_becomes_wal(path: Path) -> None:
    """At head in another journal mode, that is all there is to do."""
    at("010").write(path)
    prepare(path)
    path.chmod(0o600)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    assert mend(path) == Repaired(path, ("switched its journal to wal",))


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        (at("010").recording(NEXT_ID), "unknown-revision"),
        (at("009").without("refresh_tokens"), "inconsistent"),
        (Shape().also("CREATE TABLE songs (title TEXT)"), "foreign"),
    ],
)
def test_what_is_not_mendable_is_refused_unchanged(path: Path, shape: Shape, code: str) -> None:
    """Newer, lost or foreign: the file keeps its bytes, its mode and its times."""
    shape.write(path)
    path.chmod(0o644)
    before = fingerprint(path)
    assert refused(lambda: mend(path)).code == code
    assert refused(lambda: repairs.propose(Settings(path))).code == code
    assert fingerprint(path) == before


@pytest.mark.parametrize(
    ("shape", "mode"),
    [
        (at("006").recording("005", "006"), 0o600),
        (at("009").also(MISNAMED, *(f"DELETE FROM {table}" for table in OTHERS)), 0o600),
        (at("006").without(*OTHERS).also(ADOPTED), 0o600),
        (at("010"), 0o644),
    ],
    ids=["two rows", "a misspelt column of secrets", "a copy of the grants", "not private"],
)
def test_the_given_keys_are_proven_first(path: Path, shape: Shape, mode: int) -> None:
    """Keys that open nothing, or are none, stop whatever there is to mend; without any it goes."""
    shape.write(path)
    path.chmod(mode)
    before = fingerprint(path)
    for keys, code in ((("short",), "malformed-key"), ((OTHER_KEY,), "wrong-key")):
        assert refused(partial(repair, Settings(path, keys))).code == code
    missing = Settings(path, key_file=path.with_name("no.key"))
    assert refused(lambda: repair(missing)).code == "key-missing"
    assert fingerprint(path) == before
    assert names(path.parent) == {path.name, f"{path.name}.lock"}
    other = path.with_name("other.db")
    shutil.copy(path, other)
    assert repair(Settings(other)).done
    assert repair(Settings(path, (OTHER_KEY, KEY))).done


def test_a_damaged_table_is_refused_unchanged(path: Path) -> None:
    """Where rows are hurt, a repair would only make it worse."""
    at("009").write(path, ["page_size=4096"])
    flip(path, "refresh_tokens")
    before = fingerprint(path)
    error = refused(lambda: mend(path))
    assert error.code == "corrupt"
    assert fingerprint(path) == before


def test_text_is_no_database(path: Path) -> None:
    """A file of another kind is refused, unchanged."""
    path.write_bytes(b"not a database, but longer than its header is\n" * 9)
    before = fingerprint(path)
    assert refused(lambda: mend(path)).code == "not-a-database"
    assert fingerprint(path) == before


def test_what_is_not_there_is_refused(path: Path) -> None:
    """A repair makes no database."""
    assert refused(lambda: mend(path)).code == "bad-path"
    assert refused(lambda: repairs.propose(Settings(path))).code == "bad-path"
    assert not path.exists()


def test_what_cannot_be_written_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason names what is in the way."""
    at("006").recording("005", "006").write(path)
    monkeypatch.setattr(files, "unwritable", lambda _: "the disk is a compact disc")
    error = refused(lambda: mend(path))
    assert (error.code, error.message) == (
        "read-only",
        f"{path} cannot be repaired: the disk is a compact disc.",
    )


#: Dies where the transaction has done everything and is not committed.
_DYING = """
import os, signal, sys
from pathlib import Path
from nextcloud_mcp_server import verdict
from nextcloud_mcp_server.repair import repair
from nextcloud_mcp_server.settings import Settings
verdict.problem = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
repair(Settings(Path(sys.argv[1])))
"""


def test_killed_before_the_commit_it_is_as_it_was(path: Path) -> None:
    """A repair that dies leaves the old database, and the next one mends it."""
    at("009").also(RENAME).write(path)
    before = snapshot(path)
    done = subprocess.run([sys.executable, "-c", _DYING, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    promises.same_content(before, snapshot(path))
    mend(path)
    promises.complete_at_head(snapshot(path))


def test_a_repair_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error inside the transaction rolls all of it back."""
    at("009").also(RENAME).write(path)
    before = snapshot(path)

    def fail(*_: object) -> int:
        raise TokenStorageError("It broke.", code="io-error", remedy="Try again.")

    monkeypatch.setattr("nextcloud_mcp_server.revisions.upgrade", fail)
    assert refused(lambda: mend(path)).code == "migration-failed"
    promises.same_content(before, snapshot(path))


#: The shape of a draft that was never released: columns that no writer of ours fills.
DRAFT = """
CREATE TABLE batch_ocr_jobs (user_id TEXT NOT NULL, doc_id TEXT NOT NULL, doc_type TEXT NOT NULL,
etag TEXT NOT NULL, job_id TEXT NOT NULL, status TEXT NOT NULL, submitted_at BIGINT NOT NULL,
updated_at BIGINT NOT NULL, UNIQUE (user_id, doc_id, doc_type, etag))
"""


def test_a_draft_is_made_anew(path: Path) -> None:
    """A cache in the shape of a draft gets its released shape."""
    at("008").without("batch_ocr_jobs").also(DRAFT).write(path)
    done = mend(path)
    assert "made batch_ocr_jobs anew in its released shape" in done.done
    promises.complete_at_head(snapshot(path))


def test_what_was_not_agreed_to_is_not_done(path: Path) -> None:
    """Where the database needs something else by now, the person is asked again."""
    at("006").recording("005", "006").write(path)
    agreed = repairs.propose(Settings(path))
    path.unlink()
    at("009").also(RENAME).write(path)
    before = fingerprint(path)
    assert refused(lambda: repair(Settings(path), agreed)).code == "declined"
    assert fingerprint(path) == before
    assert repair(Settings(path), repairs.propose(Settings(path))).done


def test_a_copy_that_fails_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-made copy of a damaged file is taken away, and the file stays as it was."""
    at("009").write(path, ["page_size=4096"])
    flip(path, "idx_audit_user_timestamp")
    before = fingerprint(path)
    path.chmod(0o600)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert refused(lambda: mend(path)).code == "disk-full"
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}
    assert fingerprint(path)[0] == before[0]
