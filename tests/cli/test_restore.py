"""`db backups` and `db restore`."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.in_use import hold
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path, read_manifest
from nextcloud_mcp_server.cli.db.backups import age
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.conftest import Command, Db
from tests.cli.places import Shelf, execute, fingerprint, rows
from tests.maintenance.restore.harm import flip
from tests.support import shapes
from tests.support.contents import KEY, OTHER_KEY, REFRESH_TOKENS
from tests.support.present import present
from tests.support.revisions import HEAD

ERASE = "DELETE FROM refresh_tokens"
USERS = "SELECT user_id FROM refresh_tokens"

PREVIEW = f"""\
{{db}} is at revision {HEAD}.
It is replaced by {{backup}}, made {{made}} (just now), at revision {HEAD}:
  migration_journal  1 now, 1 in the backup
  refresh_tokens     0 now, 1 in the backup
The replaced file is kept beside it.
warning: no key is set, so its 1 secret could not be verified
"""


@pytest.fixture
def saved(shelf: Shelf, database: Path) -> Path:
    """A backup with one token, beside a database that has none any more."""
    shelf.put("at-head", database)
    made = back_up(database)
    execute(database, ERASE)
    return made


@pytest.fixture
def two(shelf: Shelf, database: Path) -> tuple[Path, Path]:
    """An intact backup with one token, a newer damaged one, and a database without tokens."""
    shelf.put("at-head", database)
    intact, damaged = back_up(database), back_up(database)
    flip(damaged)
    execute(database, ERASE)
    return intact, damaged


def made_at(backup: Path) -> str:
    """Return when a backup was made, as the commands print it."""
    manifest = present(read_manifest(backup))
    return datetime.fromisoformat(manifest.made_at).strftime("%Y-%m-%d %H:%M:%SZ")


def test_restore_shows_asks_and_restores(saved: Path, db: Db) -> None:
    """It prints what is replaced by what, asks, and prints where the replaced file is."""
    done = db("restore", str(saved), stdin=b"y\n")
    preview = PREVIEW.format(db=db.path, backup=saved, made=made_at(saved))
    assert (done.status, done.err) == (0, preview + "Restore? [y/N] \n")
    path, backup = re.escape(str(db.path)), re.escape(str(saved))
    assert re.fullmatch(
        rf"restored {path} from {backup} in \d+\.\d\d s\n"
        rf"replaced: {path}\.backup-\d{{8}}T\d{{6}}\.\d{{6}}Z-{HEAD}-replaced\n",
        done.out,
    )
    assert rows(db.path, USERS) == [("alice",)]


def test_restore_as_json(saved: Path, db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json the result is one document on stdout."""
    execute(saved, "PRAGMA journal_mode=DELETE")
    document = json.loads(db("restore", str(saved), "--yes", "--json").out)
    assert Path(document["replaced"]).is_file()
    assert document["database"] == str(db.path)
    assert document["backup"] == str(saved)
    assert (document["before"], document["after"]) == (HEAD, HEAD)
    assert document["rows_before"]["refresh_tokens"] == 0
    assert document["rows_after"]["refresh_tokens"] == 1
    assert (document["secrets"], document["opened"]) == (1, None)
    assert (document["upgrade_pending"], document["passed_over"]) == (False, [])
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", OTHER_KEY)
    assert db.refused("restore", str(saved), "--yes") == "wrong-key"


def test_restore_warns_about_the_backup(
    tmp_path: Path, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets without a key, a missing manifest, a trigger and an older revision are printed."""
    old = tmp_path / "old.db"
    shapes.at("006").write(old)
    execute(old, "UPDATE refresh_tokens SET encrypted_token = x'00' WHERE user_id = 'alice'")
    execute(old, "CREATE TRIGGER op_t AFTER INSERT ON app_passwords BEGIN SELECT 1; END")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = db("restore", str(old), "--yes")
    assert done.status == 0
    lines = done.err.splitlines()
    assert lines[0] == f"{db.path} does not exist."
    assert lines[1].startswith(f"It is created from {old}, made ")
    assert f"The next start of this version upgrades it to {HEAD}." in lines
    assert "warning: it has no manifest, so only its contents could be verified" in lines
    assert "warning: its trigger op_t on app_passwords can change" in done.err
    assert re.search(r"warning: no given key decrypts 1 of its \d+ secrets", done.err)
    assert done.out.startswith(f"restored {db.path} from {old} in ")
    assert rows(db.path, "SELECT count(*) FROM refresh_tokens") == [(len(REFRESH_TOKENS),)]


def test_a_running_server_stops_a_restore(saved: Path, db: Db) -> None:
    """There is no question then; --while-running restores the backup."""
    before = fingerprint(db.path)
    share = present(hold(db.path))
    refused = db("restore", str(saved))
    assert (refused.status, refused.out) == (1, "")
    error, remedy = refused.err.splitlines()
    assert error.endswith(" [in-use]")
    assert "--while-running" in remedy
    assert fingerprint(db.path) == before
    done = db("restore", str(saved), "--yes", "--while-running")
    share.release()
    assert done.status == 0
    assert rows(db.path, USERS) == [("alice",)]


def test_a_database_without_a_recorded_revision_is_unversioned(shelf: Shelf, db: Db) -> None:
    """The same word is printed for the database and for the backup."""
    saved = shelf.put("pre-alembic", db.path.with_name("saved.db"))
    db.put("pre-alembic")
    done = db("restore", str(saved), stdin=b"n\n")
    first, second, *_ = done.err.splitlines()
    assert first == f"{db.path} is unversioned."
    assert second.endswith("), unversioned:")


def test_the_newest_intact_backup_is_restored(two: tuple[Path, Path], db: Db) -> None:
    """--newest prints which newer backup it skipped and why, and which one it takes."""
    intact, damaged = two
    done = db("restore", "--newest", stdin=b"y\n")
    assert done.status == 0
    first, second, third, *_ = done.err.splitlines()
    assert first.startswith(f"warning: skipped: {damaged} has been changed since it was made")
    assert second == f"{db.path} is at revision {HEAD}."
    assert third.startswith(f"It is replaced by {intact}, made ")
    assert done.out.startswith(f"restored {db.path} from {intact} in ")
    assert rows(db.path, USERS) == [("alice",)]


def test_newest_as_json(two: tuple[Path, Path], db: Db) -> None:
    """The document lists the skipped backups; without an intact one it is an error."""
    intact, damaged = two
    document = json.loads(db("restore", "--newest", "--yes", "--json").out)
    assert document["backup"] == str(intact)
    [skipped] = document["passed_over"]
    assert skipped["backup"] == str(damaged)
    assert skipped["reason"].startswith(f"{damaged} has been changed since it was made")
    flip(intact)
    before = fingerprint(db.path)
    assert db.refused("restore", "--newest", "--yes") == "bad-backup"
    assert fingerprint(db.path) == before


@pytest.mark.parametrize("state", ["corrupt", "no-grants"])
def test_the_remedy_for_a_damaged_database_is_a_command(
    state: str, db: Db, command: Command
) -> None:
    """It can be typed as printed, and the tokens are back."""
    back_up(db.put("at-head"))
    db.put(state)
    refused = db("current")
    [line] = re.findall(r"remedy: .*nextcloud-mcp-server (db restore .*)\n", refused.err)
    arguments = shlex.split(line.partition(" (")[0])
    assert arguments == ["db", "restore", "--newest", "-d", str(db.path)]
    assert command(*arguments, stdin=b"y\n").status == 0
    assert db("current").out == f"{HEAD} (at-head)\n"
    assert rows(db.path, USERS) == [("alice",)]


@pytest.mark.parametrize("arguments", [(), ("",), ("kept.db", "--newest")])
def test_one_backup_is_named_or_the_newest(arguments: tuple[str, ...], db: Db) -> None:
    """None, an empty one and both are wrong usage."""
    done = db("restore", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.endswith("remedy: See what it takes: nextcloud-mcp-server db restore --help\n")


def test_backups_are_listed_newest_first(saved: Path, db: Db) -> None:
    """One line each: time, age, revision, tokens, size, result of the verification, and name."""
    newer = back_up(db.path)
    manifest_path(saved).unlink()
    done = db("backups")
    assert (done.status, done.err) == (0, "")
    first, second = done.out.splitlines()
    size = r"\d+\.\d kB"
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  just now"
    assert re.fullmatch(f"{when}  {HEAD}  0 tokens  {size}  ok           {newer.name}", first)
    assert re.fullmatch(rf".*  {HEAD}  \? tokens  .* kB  no manifest  " + saved.name, second)
    verified = db("backups", "--verify")
    assert verified.status == 0
    assert "  1 token   " in verified.out.splitlines()[1]


def test_a_changed_backup_has_a_reason(saved: Path, db: Db) -> None:
    """Another size is found at once; a flipped bit with --verify, which then exits 1."""
    newer, raw = back_up(db.path), saved.read_bytes()
    saved.write_bytes(raw + bytes(4096))
    done = db("backups", "--json")
    _, changed = json.loads(done.out)["backups"]
    assert (done.status, changed["status"], changed["backup"]) == (0, "changed", str(saved))
    assert changed["reason"] == f"it has {len(raw) + 4096} bytes, and {len(raw)} in its manifest"
    # In a stored text, where SQLite itself finds nothing wrong.
    with closing(sqlite3.connect(f"file:{saved}?immutable=1", uri=True)) as connection:
        [(token,)] = connection.execute("SELECT encrypted_token FROM refresh_tokens")
    at = raw.index(token if isinstance(token, bytes) else token.encode())
    saved.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    for options, status, exit_status in (((), "ok", 0), (("--verify",), "changed", 1)):
        done = db("backups", "--json", *options)
        assert [backup["status"] for backup in json.loads(done.out)["backups"]] == ["ok", status]
        assert done.status == exit_status
    done = db("backups", "--verify")
    assert [newer.name in line for line in done.out.splitlines()] == [True, False]


def test_a_folder_without_a_backup_is_no_error(db: Db) -> None:
    """One line says that there is none."""
    upgrade_database(db.path)
    done = db("backups")
    assert (done.status, done.out) == (0, f"There is no backup beside {db.path}.\n")


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(seconds=-5), "in the future"),
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 minute ago"),
        (timedelta(minutes=119), "1 hour ago"),
        (timedelta(hours=47), "1 day ago"),
        (timedelta(days=400), "400 days ago"),
    ],
)
def test_an_age_has_one_unit(ago: timedelta, text: str) -> None:
    """The age is a number of the largest unit."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert age(now - ago, now) == text
