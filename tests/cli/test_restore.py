"""What `db backups` and `db restore` do and say."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.in_use import hold
from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path, read_manifest
from nextcloud_mcp_server.cli.db.restore import age
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.filesystem.flock import Hold
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.conftest import Command
from tests.cli.places import ONE_GRANT, Shelf, execute, fingerprint, process, rows
from tests.support import shapes
from tests.support.contents import KEY, OTHER_KEY, REFRESH_TOKENS
from tests.support.revisions import HEAD

ERASE = "DELETE FROM refresh_tokens"

OFFER = f"""\
{{db}} is at revision {HEAD}.
It is replaced by {{backup}}, made {{made}} (just now), at revision {HEAD}:
  migration_journal  1 now, 1 then
  refresh_tokens     0 now, 1 then
What is replaced is kept beside it.
warning: no key is at hand, so 1 secret in it could not be tried
"""


@pytest.fixture
def saved(shelf: Shelf, database: Path) -> Path:
    """A backup with one token of the database, which has none any more."""
    shelf.put("at-head", database)
    made = back_up(database)
    execute(database, ERASE)
    return made


def made_at(backup: Path) -> str:
    """When a backup was made, as the commands say it."""
    manifest = read_manifest(backup)
    assert manifest is not None
    return datetime.fromisoformat(manifest.made_at).strftime("%Y-%m-%d %H:%M:%SZ")


def held(database: Path) -> Hold:
    """A store that is open, as far as its lock tells."""
    share = hold(database)
    assert share is not None
    return share


@pytest.mark.parametrize("answer", [b"y\n", b" YES \r\n"])
def test_restore_shows_asks_and_restores(
    answer: bytes, saved: Path, database: Path, command: Command
) -> None:
    """It says what is replaced by what, asks, and says where what it replaced lies."""
    done = command("db", "restore", str(saved), "-d", str(database), stdin=answer)
    offer = OFFER.format(db=database, backup=saved, made=made_at(saved))
    assert (done.status, done.err) == (0, offer + "Restore? [y/N] \n")
    db, backup = re.escape(str(database)), re.escape(str(saved))
    assert re.fullmatch(
        rf"restored {db} from {backup} in \d+\.\d\d s\n"
        rf"replaced: {db}\.backup-\d{{8}}T\d{{6}}\.\d{{6}}Z-{HEAD}-replaced\n",
        done.out,
    )
    assert rows(database, "SELECT user_id FROM refresh_tokens") == [("alice",)]


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"", "There was nobody to ask"), (b"no\n", "The answer was not yes")],
)
def test_restore_takes_only_yes_for_yes(
    answer: bytes, why: str, saved: Path, database: Path, command: Command
) -> None:
    """Any other answer changes nothing, and names the way without a question."""
    before = fingerprint(database)
    done = command("db", "restore", str(saved), "-d", str(database), stdin=answer)
    assert (done.status, done.out) == (1, "")
    assert done.err.endswith(
        f"error: {why}, so nothing was changed. [declined]\n"
        "remedy: To restore without being asked: "
        f"nextcloud-mcp-server db restore {saved} -d {database} --yes\n"
    )
    assert fingerprint(database) == before


def test_restore_as_json(
    saved: Path, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --json the facts are one document on stdout."""
    execute(saved, "PRAGMA journal_mode=DELETE")
    done = command("db", "restore", str(saved), "-d", str(database), "--yes", "--json")
    document = json.loads(done.out)
    assert Path(document["replaced"]).is_file()
    assert document["database"] == str(database)
    assert document["backup"] == str(saved)
    assert (document["before"], document["after"]) == (HEAD, HEAD)
    assert document["rows_before"]["refresh_tokens"] == 0
    assert document["rows_after"]["refresh_tokens"] == 1
    assert (document["secrets"], document["opened"]) == (1, None)
    assert document["upgrade_pending"] is False
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", OTHER_KEY)
    refused = command("db", "restore", str(saved), "-d", str(database), "--yes", "--json")
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (1, "wrong-key")


def test_restore_tries_the_keys_and_warns(
    database: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What some secrets, a missing manifest and an older revision mean is said before it asks."""
    old = tmp_path / "old.db"
    shapes.at("006").write(old)
    execute(old, "UPDATE refresh_tokens SET encrypted_token = x'00' WHERE user_id = 'alice'")
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = command("db", "restore", str(old), "-d", str(database), "--yes")
    assert done.status == 0
    said = done.err.splitlines()
    assert said[0] == f"{database} is not there."
    assert said[1].startswith(f"It is made from {old}, made ")
    assert f"The next start of this version upgrades it to {HEAD}." in said
    assert "warning: it has no manifest, so only what is in it could be checked" in said
    assert re.search(r"warning: no key at hand opens 1 of its \d+ secrets", done.err)
    assert done.out.startswith(f"restored {database} from {old} in ")
    assert rows(database, "SELECT count(*) FROM refresh_tokens") == [(len(REFRESH_TOKENS),)]


def test_restore_says_that_a_server_is_running(
    saved: Path, database: Path, command: Command
) -> None:
    """Nobody is asked then; --while-running does it all the same."""
    before = fingerprint(database)
    share = held(database)
    refused = command("db", "restore", str(saved), "-d", str(database), "--yes")
    assert (refused.status, refused.out) == (1, "")
    assert re.fullmatch(
        rf"error: A server is running on {re.escape(str(database))}( \(process \d+\))?; nothing "
        r"was changed\. \[in-use\]\nremedy: Stop it, .*--while-running.*\n",
        refused.err,
    )
    assert fingerprint(database) == before
    done = command("db", "restore", str(saved), "-d", str(database), "--yes", "--while-running")
    share.release()
    assert done.status == 0
    assert rows(database, "SELECT user_id FROM refresh_tokens") == [("alice",)]


@pytest.mark.parametrize("arguments", [("downgrade", "--yes"), ("stamp", "010")])
def test_downgrade_and_stamp_want_to_be_told(
    arguments: tuple[str, ...], shelf: Shelf, database: Path, command: Command
) -> None:
    """Under a running server they refuse, unless it is meant."""
    before = fingerprint(shelf.put("at-head", database))
    share = held(database)
    refused = command("db", *arguments, "-d", str(database), "--json")
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (1, "in-use")
    assert fingerprint(database) == before
    done = command("db", *arguments, "-d", str(database), "--while-running")
    share.release()
    assert done.status == 0


def test_restore_refuses_what_is_no_backup(
    shelf: Shelf, saved: Path, database: Path, command: Command
) -> None:
    """A damaged file, and one that has been changed, are told apart."""
    bad = shelf.put("corrupt", database.with_name("bad.db"))
    done = command("db", "restore", str(bad), "-d", str(database), "--yes", "--json")
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "bad-backup")
    execute(saved, ONE_GRANT.replace("alice", "mallory"))
    changed = command("db", "restore", str(saved), "-d", str(database), "--yes")
    assert changed.status == 1
    assert f"error: {saved} has been changed since it was made: " in changed.err


def test_what_records_no_revision_is_called_unversioned(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """On both sides, as everywhere else."""
    saved = shelf.put("pre-alembic", database.with_name("saved.db"))
    shelf.put("pre-alembic", database)
    done = command("db", "restore", str(saved), "-d", str(database), stdin=b"n\n")
    first, second, *_ = done.err.splitlines()
    assert first == f"{database} is unversioned."
    assert second.endswith("), unversioned:")


def test_restore_wants_a_backup(database: Path, command: Command) -> None:
    """Without an argument, or with an empty one, it is wrong usage."""
    assert command("db", "restore", "-d", str(database)).status == 2
    assert command("db", "restore", "", "-d", str(database)).status == 2


def test_backups_are_listed_newest_first(saved: Path, database: Path, command: Command) -> None:
    """One line each: time, age, revision, tokens, size, whether it verifies, and its name."""
    newer = back_up(database)
    manifest_path(saved).unlink()
    done = command("db", "backups", "-d", str(database))
    assert (done.status, done.err) == (0, "")
    first, second = done.out.splitlines()
    size = r"\d+\.\d kB"
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  just now"
    assert re.fullmatch(f"{when}  {HEAD}  0 tokens  {size}  ok           {newer.name}", first)
    assert re.fullmatch(rf".*  {HEAD}  \? tokens  .* kB  no manifest  " + saved.name, second)
    verified = command("db", "backups", "--verify", "-d", str(database)).out.splitlines()
    assert "  1 token   " in verified[1]


def test_backups_that_are_no_good_say_why(saved: Path, database: Path, command: Command) -> None:
    """A size that is not the manifest's is seen at once; a flipped bit with --verify."""
    raw = saved.read_bytes()
    saved.write_bytes(raw + bytes(4096))
    [cheap] = json.loads(command("db", "backups", "-d", str(database), "--json").out)["backups"]
    assert (cheap["status"], cheap["backup"]) == ("changed", str(saved))
    assert cheap["reason"] == f"it has {len(raw) + 4096} bytes, and {len(raw)} in its manifest"
    saved.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    one = command("db", "backups", "-d", str(database), "--json")
    two = command("db", "backups", "-d", str(database), "--json", "--verify")
    assert json.loads(one.out)["backups"][0]["status"] == "ok"
    assert json.loads(two.out)["backups"][0]["status"] == "changed"
    assert (one.status, two.status) == (0, 1)


def test_verified_backups_are_judged_by_the_exit_status(
    saved: Path, database: Path, command: Command
) -> None:
    """One bad backup among good ones is a 1, after the whole list; one without manifest is not."""
    newer = back_up(database)
    manifest_path(saved).unlink()
    assert command("db", "backups", "--verify", "-d", str(database)).status == 0
    newer.write_bytes(newer.read_bytes()[:-4096])
    done = command("db", "backups", "--verify", "-d", str(database))
    assert (done.status, done.err) == (1, "")
    assert [saved.name in line for line in done.out.splitlines()] == [False, True]


def test_no_backup_is_an_answer(database: Path, command: Command) -> None:
    """A folder without one says so, and is no error."""
    upgrade_database(database)
    done = command("db", "backups", "-d", str(database))
    assert (done.status, done.out) == (0, f"There is no backup beside {database}.\n")


def test_a_backup_by_name_has_the_keys_in_its_manifest(
    shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint of the key that the settings name; a key that is none stops no backup."""
    shelf.put("at-head", database)
    for key, wanted in ((KEY, Keyring([KEY]).fingerprints), ("no key", None)):
        monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", key)
        done = command("db", "backup", "-d", str(database), "--json")
        manifest = read_manifest(Path(json.loads(done.out)["backup"]))
        assert manifest is not None
        assert manifest.keys == wanted


@pytest.mark.parametrize(
    "words", [("downgrade", "--yes"), ("stamp", "head")], ids=["downgrade", "stamp"]
)
def test_a_backup_before_a_change_has_the_keys_in_its_manifest(
    words: tuple[str, ...],
    database: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fingerprint of the key that the settings name, which had to be a key."""
    shapes.at(HEAD).write(database)
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = command("db", *words, "-d", str(database), "--json")
    manifest = read_manifest(Path(json.loads(done.out)["backup"]))
    assert manifest is not None
    assert manifest.keys == Keyring([KEY]).fingerprints


@pytest.mark.parametrize(
    "words", [("downgrade", "--yes"), ("stamp", "head")], ids=["downgrade", "stamp"]
)
def test_a_key_that_is_none_stops_a_change_and_no_key_does_not(
    words: tuple[str, ...],
    shelf: Shelf,
    database: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What changes a database wants good keys or none; with none the manifest names none."""
    shelf.put("at-head", database)
    before = database.read_bytes()
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", "no key")
    refused = command("db", *words, "-d", str(database), "--json")
    assert refused.status == 1
    assert json.loads(refused.out)["error"]["code"] == "malformed-key"
    assert database.read_bytes() == before
    monkeypatch.delenv("TOKEN_ENCRYPTION_KEY")
    done = command("db", *words, "-d", str(database), "--json")
    manifest = read_manifest(Path(json.loads(done.out)["backup"]))
    assert manifest is not None
    assert manifest.keys is None


def test_the_newest_backup_is_restored_by_a_process(saved: Path, tmp_path: Path) -> None:
    """As typed in a shell, with a relative path and a piped yes."""
    done = process("db", "restore", saved.name, "-d", "tokens.db", cwd=tmp_path, stdin=b"y\n")
    assert done.status == 0, done.err
    assert done.out.startswith("restored tokens.db from ")


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        (timedelta(seconds=-5), "in the future"),
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 minute ago"),
        (timedelta(minutes=119), "1 hour ago"),
        (timedelta(hours=47), "1 day ago"),
        (timedelta(days=400), "400 days ago"),
    ],
)
def test_an_age_is_rough(ago: timedelta, words: str) -> None:
    """One number and its unit."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    assert age(now - ago, now) == words
