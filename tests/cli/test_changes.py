"""`db upgrade`, `db stamp` and `db backup`, and what all commands that change have in common."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nextcloud_mcp_server.backends.sqlite.in_use import hold
from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.backends.sqlite.manifest import read_manifest
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.migrations import get_current_revision
from tests.cli.conftest import Command, Db
from tests.cli.places import (
    BACKUP,
    REFUSED,
    SERVED,
    Shelf,
    crash,
    execute,
    fingerprint,
    listing,
    rows,
)
from tests.support import shapes
from tests.support.contents import KEY, OTHER_KEY
from tests.support.present import present
from tests.support.revisions import ALL, HEAD

STAMPED = r"stamped {db} with 001 and upgraded it to {head} in \d+\.\d\d s\n" + BACKUP
REPAIRED = r"repaired {{db}} at revision {{head}} \({}\) in \d+\.\d\d s\n"

#: By state: what `db upgrade` prints, as a regular expression.
UPGRADED = {
    "at-head": "{db} is at revision {head} already: nothing to do\n",
    "behind": r"upgraded {db} from 007 to {head} in \d+\.\d\d s\n" + BACKUP,
    "pre-alembic": STAMPED,
    "no-version-row": STAMPED,
    "null-version-row": STAMPED,
    "narrow": REPAIRED.format("added index idx_browser_sessions_user") + BACKUP,
    "untidy": REPAIRED.format("put the version table in order") + BACKUP,
    "zero-bytes": r"created {db} at revision {head} in \d+\.\d\d s\n",
    "missing": r"created {db} at revision {head} in \d+\.\d\d s\n",
}
#: By state: the end of the backup's name, if it is not `unversioned`.
REVISION = {"behind": "007", "narrow": HEAD, "untidy": HEAD}

#: Two commands that change a database, with their arguments.
CHANGES = pytest.mark.parametrize(
    "arguments", [("downgrade", "--yes"), ("stamp", HEAD)], ids=["downgrade", "stamp"]
)


@pytest.mark.parametrize("state", SERVED)
def test_upgrade_prints_its_outcome(state: str, db: Db) -> None:
    """`db upgrade` upgrades every served state to head, and prints what it did and the backup."""
    db.put(state)
    done = db("upgrade")
    assert (done.status, done.err) == (0, "")
    values = {"db": re.escape(str(db.path)), "head": HEAD}
    values["revision"] = REVISION.get(state, "unversioned")
    assert re.fullmatch(UPGRADED[state].format(**values), done.out), done.out
    assert rows(db.path, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert db("check").status == 0


def test_upgrade_as_json(db: Db) -> None:
    """With --json the outcome is one document."""
    db.put("pre-alembic")
    document = json.loads(db("upgrade", "--json").out)
    backup, seconds = document.pop("backup"), document.pop("seconds")
    assert Path(backup).is_file()
    assert seconds > 0
    assert document == {
        "database": str(db.path),
        "state": "pre-alembic",
        "action": "stamp",
        "before": "001",
        "after": HEAD,
        "stamped": True,
        "steps": list(ALL[1:]),
        "mended": [],
        "journal_mode": "wal",
        "warning": None,
        "unopened_secrets": 0,
    }


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [("-r 008", "008"), ("--revision=008", "008"), ("--revision 008", "008"), ("-r head", HEAD)],
)
def test_upgrade_stops_at_a_revision(spelling: str, expected: str, db: Db) -> None:
    """`db upgrade -r REV` ends at REV, which may be `head`."""
    db.put("behind")
    assert db("upgrade", *spelling.split()).status == 0
    assert get_current_revision(db.path) == expected


@pytest.mark.parametrize("name", ["upgrade", "downgrade", "stamp"])
def test_an_empty_revision_is_wrong_usage(name: str, db: Db) -> None:
    """A shell variable that is not set does not silently mean head."""
    before = fingerprint(db.put("behind"))
    revision = [""] if name == "stamp" else ["--revision", ""]
    done = db(name, *revision)
    assert (done.status, done.out) == (2, "")
    assert "it is empty." in done.err
    assert fingerprint(db.path) == before


#: States that can be stamped and backed up although a start refuses them.
STAMPABLE = {"newer", "escape", "nul", "two-rows"}
CASES = [
    *(
        (arguments, state)
        for arguments in (
            "upgrade",
            "upgrade --dry-run",
            "upgrade --sql",
            "downgrade -y",
            "history",
        )
        for state in REFUSED
    ),
    *((f"stamp {HEAD}", state) for state in REFUSED.keys() - STAMPABLE),
    *(("backup", state) for state in REFUSED.keys() - STAMPABLE - {"no-grants"}),
    *(("repair --yes", state) for state in REFUSED.keys() - {"two-rows"}),
]


@pytest.mark.parametrize(("arguments", "state"), sorted(CASES))
def test_a_refused_file_is_not_touched(arguments: str, state: str, db: Db) -> None:
    """The exit status is 1 with the code of the state, and no file is created."""
    db.put(state)
    db.path.chmod(0o640)
    before = (fingerprint(db.path), listing(db.path.parent))
    assert db.refused(*arguments.split()) == REFUSED[state][0]
    assert (fingerprint(db.path), listing(db.path.parent)) == before


@pytest.mark.parametrize(
    "arguments", [("downgrade", "--yes"), ("stamp", "010", "--yes"), ("backup",)]
)
def test_a_manifest_names_the_keys(
    arguments: tuple[str, ...], db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest of a backup has the fingerprint of the key in the settings."""
    shapes.at("101").write(db.path)
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = db(*arguments, "--json")
    assert _keys(done.out) == Keyring([KEY]).fingerprints


@pytest.mark.parametrize("key", ["", "no key"])
def test_a_missing_or_malformed_key_does_not_stop_a_backup(
    key: str, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names no key then."""
    db.put("at-head")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", key)
    assert _keys(db("backup", "--json").out) is None


def _keys(document: str) -> object:
    """Return the fingerprints in the manifest of the backup that a command made."""
    manifest = present(read_manifest(Path(json.loads(document)["backup"])))
    return manifest.keys


@CHANGES
def test_a_running_server_stops_a_change(arguments: tuple[str, ...], db: Db) -> None:
    """The code is `in-use`; with --while-running the change is made."""
    before = fingerprint(db.put("at-head"))
    share = present(hold(db.path))
    assert db.refused(*arguments) == "in-use"
    assert fingerprint(db.path) == before
    done = db(*arguments, "--while-running")
    share.release()
    assert done.status == 0


def test_stamp_prints_the_revision_before(db: Db) -> None:
    """`db stamp` also takes `head` and `base`, and prints the backup."""
    db.put("pre-alembic")
    path = re.escape(str(db.path))
    backup = BACKUP.format(db=path, revision="unversioned")
    done = db("stamp", "001")
    first = rf"stamped {path} with 001 \(recorded before: none\)\n"
    assert re.fullmatch(first + backup, done.out)
    assert db.refused("stamp", "base") == "declined"
    done = db("stamp", "base", "--yes")
    assert "has the tables of 001, and not of none: the next start records 001" in done.err
    assert done.out.startswith(f"unstamped {db.path} (recorded before: 001)\nbackup: ")
    assert db("upgrade").status == 0
    assert db("stamp", "head").status == 0


def test_backup_is_created_beside_the_database(db: Db) -> None:
    """`db backup` makes a private copy under a name that is never deleted, and prints it."""
    db.put("behind")
    done = db("backup")
    assert (done.status, done.err) == (0, "")
    path = Path(done.out.removeprefix("backup: ").rstrip("\n"))
    assert path.name.endswith("-007-manual")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert rows(path, "SELECT user_id FROM refresh_tokens") == [("alice",)]


def test_backup_takes_a_path_and_overwrites_nothing(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """`db backup PATH` writes there once; a second time is refused."""
    shelf.put("at-head", database)
    target = database.with_name("copy.db")
    arguments = ("db", "backup", str(target), "-d", str(database), "--json")
    document = json.loads(command(*arguments).out)
    assert document == {"database": str(database), "backup": str(target)}
    before = fingerprint(target)
    again = command(*arguments)
    assert (again.status, json.loads(again.out)["error"]["code"]) == (1, "bad-path")
    assert fingerprint(target) == before


def test_a_backup_after_a_crash_holds_what_was_committed(shelf: Shelf, db: Db) -> None:
    """A crashed writer's journal is rolled back before the copy is made."""
    crash(shelf.put("at-head", db.path.with_name("live.db")), db.path)
    done = db("backup", "--json")
    copy = Path(json.loads(done.out)["backup"])
    assert rows(copy, "SELECT count(*) FROM refresh_tokens") == [(1,)]


@pytest.mark.parametrize("state", ["missing", "zero-bytes"])
def test_a_backup_needs_a_database(state: str, db: Db) -> None:
    """A missing or empty file is refused."""
    db.put(state)
    assert db.refused("backup") == "bad-path"


def test_waiting_for_the_lock_is_printed(db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning names the process that holds the lock; after the deadline the command fails."""
    before = fingerprint(db.put("behind"))
    monkeypatch.setenv("TOKEN_STORAGE_LOCK_TIMEOUT", "0.3")
    monkeypatch.setattr("nextcloud_mcp_server.backends.sqlite.lock.TELL_INTERVAL", 0.1)
    with guard(db.path, 1) as held:
        held.announce("upgrading it")
        done = db("upgrade")
    assert (done.status, done.out) == (1, "")
    waiting, *_, error, remedy = done.err.splitlines()
    assert waiting.startswith(f"warning: Waiting for {db.path}: process ")
    assert error.startswith(f"error: {db.path} was not free within 0.3 seconds: process ")
    assert remedy.startswith("remedy: Let that process finish or stop it, then try again; ")
    assert fingerprint(db.path) == before


@pytest.mark.parametrize(
    ("state", "line"), [("at-head", "upgrade"), ("behind", "upgrade --dry-run")]
)
def test_secrets_that_no_key_opens_are_counted(
    state: str, line: str, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade tells how many secrets the given key does not open."""
    path = db.put(state)
    execute(path, "DELETE FROM refresh_tokens")
    for user, key in (("opened", KEY), ("unopened", OTHER_KEY)):
        secret = Fernet(key).encrypt(b"token").decode()
        columns = "(user_id, encrypted_token, created_at, updated_at)"
        execute(path, f"INSERT INTO refresh_tokens {columns} VALUES ('{user}', '{secret}', 1, 1)")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    assert json.loads(db(*line.split(), "--json").out)["unopened_secrets"] == 1
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", f"{KEY};{OTHER_KEY}")
    assert json.loads(db(*line.split(), "--json").out)["unopened_secrets"] == 0
