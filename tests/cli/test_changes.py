"""What `db upgrade`, `db stamp` and `db backup` do and say, and what every change keeps to."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.sqlite.lock import guard
from nextcloud_mcp_server.migrations import get_current_revision
from tests.cli.conftest import Command
from tests.cli.places import BACKUP, REFUSED, SERVED, Shelf, crash, fingerprint, rows
from tests.support.contents import KEY
from tests.support.revisions import ALL, HEAD

#: By state: what `db upgrade` prints, as a regular expression.
UPGRADED = {
    "at-head": "{db} is at revision {head} already: nothing to do\n",
    "behind": r"upgraded {db} from 007 to {head} in \d+\.\d\d s\n" + BACKUP,
    "pre-alembic": r"stamped {db} with 001 and upgraded it to {head} in \d+\.\d\d s\n" + BACKUP,
    "no-version-row": r"stamped {db} with 001 and upgraded it to {head} in \d+\.\d\d s\n" + BACKUP,
    "null-version-row": r"stamped {db} with 001 and upgraded it to {head} in \d+\.\d\d s\n"
    + BACKUP,
    "narrow": (
        r"mended {db} at revision {head} \(added index idx_browser_sessions_user\) in \d+\.\d\d s\n"
        + BACKUP
    ),
    "untidy": (
        r"mended {db} at revision {head} \(put the version table in order\) in \d+\.\d\d s\n"
        + BACKUP
    ),
    "zero-bytes": r"created {db} at revision {head} in \d+\.\d\d s\n",
    "missing": r"created {db} at revision {head} in \d+\.\d\d s\n",
}
#: What the name of the backup ends in, where it is not `unversioned`.
REVISION = {"behind": "007", "narrow": HEAD, "untidy": HEAD}

NEWER = (
    "error: {db} is at revision 007, which is newer than 004. [bad-input]\n"
    "remedy: To go back, use: nextcloud-mcp-server db downgrade --revision 004 -d {db}\n"
)
NO_SUCH = (
    f"error: There is no revision 011; the newest is {HEAD}. [unknown-revision]\n"
    "remedy: See which there are with: nextcloud-mcp-server db history\n"
)


@pytest.mark.parametrize("state", SERVED)
def test_upgrade_says_what_was_done(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """`db upgrade` brings every served state to head and says how, and where the backup lies."""
    shelf.put(state, database)
    done = command("db", "upgrade", "-d", str(database))
    assert (done.status, done.err) == (0, "")
    words = {"db": re.escape(str(database)), "head": HEAD}
    words["revision"] = REVISION.get(state, "unversioned")
    assert re.fullmatch(UPGRADED[state].format(**words), done.out), done.out
    assert rows(database, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert command("db", "check", "-d", str(database)).status == 0


def test_upgrade_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """With --json the outcome is one document."""
    shelf.put("pre-alembic", database)
    done = command("db", "upgrade", "-d", str(database), "--json")
    document = json.loads(done.out)
    backup, seconds = document.pop("backup"), document.pop("seconds")
    assert Path(backup).is_file()
    assert seconds > 0
    assert document == {
        "database": str(database),
        "state": "pre-alembic",
        "action": "stamp",
        "before": "001",
        "after": HEAD,
        "stamped": True,
        "steps": list(ALL[1:]),
        "mended": [],
        "journal_mode": "wal",
        "warning": None,
    }


@pytest.mark.parametrize("spelling", [["-r", "008"], ["--revision=008"], ["--revision", "008"]])
def test_upgrade_stops_at_a_revision(
    spelling: list[str], shelf: Shelf, database: Path, command: Command
) -> None:
    """`db upgrade -r REV` goes that far and no further."""
    shelf.put("behind", database)
    assert command("db", "upgrade", *spelling, "-d", str(database)).status == 0
    assert get_current_revision(database) == "008"


def test_upgrade_knows_the_word_head(shelf: Shelf, database: Path, command: Command) -> None:
    """`db upgrade -r head` is `db upgrade`."""
    shelf.put("behind", database)
    assert command("db", "upgrade", "-r", "head", "-d", str(database)).status == 0
    assert get_current_revision(database) == HEAD


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        ("004", NEWER),
        ("011", NO_SUCH),
    ],
)
def test_upgrade_refuses_what_is_not_above(
    revision: str, expected: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """A revision below, or one that is not there, is refused, and nothing changes."""
    before = fingerprint(shelf.put("behind", database))
    done = command("db", "upgrade", "-r", revision, "-d", str(database))
    assert (done.status, done.out, done.err) == (1, "", expected.format(db=database))
    assert fingerprint(database) == before


@pytest.mark.parametrize("name", ["upgrade", "downgrade", "stamp"])
def test_an_empty_revision_is_wrong_usage(
    name: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """A shell variable that is not set does not silently mean head."""
    before = fingerprint(shelf.put("behind", database))
    revision = [""] if name == "stamp" else ["--revision", ""]
    done = command("db", name, "-d", str(database), *revision)
    assert (done.status, done.out) == (2, "")
    assert "it is empty." in done.err
    assert fingerprint(database) == before


@pytest.mark.parametrize("state", ["missing", "zero-bytes", "pre-alembic"])
@pytest.mark.parametrize("name", ["downgrade", "stamp"])
def test_there_must_be_something_to_go_back_from(
    name: str, state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """Without a database, a table or a revision there is an error with the command to type."""
    before = fingerprint(shelf.put(state, database))
    arguments = ["-y"] if name == "downgrade" else [HEAD]
    done = command("db", name, "-d", str(database), *arguments)
    assert (done.status, done.out) == (1, "")
    assert "Traceback" not in done.err
    assert "nextcloud-mcp-server db " in done.err.splitlines()[1]
    assert fingerprint(database) == before


#: What is there to be stamped and to be copied, although no start may touch it.
STAMPABLE = {"newer", "escape", "nul", "two-rows"}
CASES = [
    *((name, state) for name in ("upgrade", "downgrade", "history") for state in REFUSED),
    *(("stamp", state) for state in REFUSED if state not in STAMPABLE),
    *(("backup", state) for state in REFUSED if state not in STAMPABLE | {"no-grants"}),
]


@pytest.mark.parametrize(("name", "state"), CASES)
def test_what_is_refused_is_not_touched(
    name: str, state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """A refused file keeps its bytes, its mode and its time, whatever was asked for."""
    shelf.put(state, database)
    database.chmod(0o640)
    before = fingerprint(database)
    more = {"downgrade": ["-y"], "stamp": [HEAD]}.get(name, [])
    done = command("db", name, "-d", str(database), *more, "--json")
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, REFUSED[state][0])
    assert fingerprint(database) == before


@pytest.mark.parametrize(
    "words", [("downgrade", "--yes"), ("stamp", HEAD)], ids=["downgrade", "stamp"]
)
def test_a_wrong_key_stops_a_change(
    words: tuple[str, ...],
    shelf: Shelf,
    database: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever holds a key that opens nothing may be at the wrong database; nothing changes."""
    shelf.put("at-head", database)
    before = fingerprint(database)
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", KEY)
    done = command("db", *words, "-d", str(database))
    assert (done.status, done.out) == (1, "")
    assert f"error: No given key opens the encrypted values in {database}." in done.err
    assert fingerprint(database) == before


@pytest.mark.parametrize("state", ["newer", "two-rows"])
def test_stamp_is_the_way_out_of_a_wrong_version_table(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """After `db stamp` with the true revision the database is served again."""
    shelf.put(state, database)
    done = command("db", "stamp", HEAD, "-d", str(database))
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"stamped {database} with {HEAD} (recorded before: ")
    assert command("db", "check", "-d", str(database)).status == 0


def test_stamp_says_what_was_recorded_before(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """`db stamp head` and `db stamp base` are understood, and the backup is named."""
    shelf.put("pre-alembic", database)
    path = re.escape(str(database))
    backup = BACKUP.format(db=path, revision="unversioned")
    done = command("db", "stamp", "001", "-d", str(database))
    first = rf"stamped {path} with 001 \(recorded before: none\)\n"
    assert re.fullmatch(first + backup, done.out)
    done = command("db", "stamp", "base", "-d", str(database))
    assert done.out.startswith(f"unstamped {database} (recorded before: 001)\nbackup: ")
    assert command("db", "upgrade", "-d", str(database)).status == 0
    assert command("db", "stamp", "head", "-d", str(database)).status == 0


def test_stamp_refuses_what_the_tables_deny(shelf: Shelf, database: Path, command: Command) -> None:
    """A revision whose tables are not there is not recorded."""
    before = fingerprint(shelf.put("pre-alembic", database))
    done = command("db", "stamp", "005", "-d", str(database), "--json")
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "inconsistent")
    assert fingerprint(database) == before


def test_backup_lies_beside_the_database(shelf: Shelf, database: Path, command: Command) -> None:
    """`db backup` makes a private copy under a name that is never pruned, and prints it."""
    shelf.put("behind", database)
    done = command("db", "backup", "-d", str(database))
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
    done = command("db", "backup", str(target), "-d", str(database), "--json")
    assert json.loads(done.out) == {"database": str(database), "backup": str(target)}
    before = fingerprint(target)
    again = command("db", "backup", str(target), "-d", str(database))
    assert (again.status, again.out) == (1, "")
    assert again.err == (
        f"error: {target} is there already, and a backup overwrites nothing. [bad-path]\n"
        "remedy: Give another name, or move the file away.\n"
    )
    assert fingerprint(target) == before


def test_a_backup_after_a_crash_holds_what_was_committed(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """A journal that a crashed writer left is rolled back before the copy is made."""
    crash(shelf.put("at-head", database.with_name("live.db")), database)
    done = command("db", "backup", "-d", str(database), "--json")
    assert done.status == 0, done.out
    copy = Path(json.loads(done.out)["backup"])
    assert rows(copy, "SELECT count(*) FROM refresh_tokens") == [(1,)]


@pytest.mark.parametrize("state", ["missing", "zero-bytes"])
def test_there_must_be_something_to_back_up(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """Without a database there is no backup."""
    shelf.put(state, database)
    done = command("db", "backup", "-d", str(database), "--json")
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "bad-path")


def test_a_locked_database_is_waited_for_in_plain_words(
    shelf: Shelf,
    database: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waits reads who holds the lock; after the deadline the command fails."""
    before = fingerprint(shelf.put("behind", database))
    monkeypatch.setenv("TOKEN_STORAGE_LOCK_TIMEOUT", "0.3")
    monkeypatch.setattr("nextcloud_mcp_server.backends.sqlite.lock.TELL_INTERVAL", 0.1)
    with guard(database, 1) as held:
        held.announce("upgrading it")
        done = command("db", "upgrade", "-d", str(database))
    assert (done.status, done.out) == (1, "")
    waiting, *_, error, remedy = done.err.splitlines()
    assert waiting.startswith(f"warning: Waiting for {database}: process ")
    assert error.startswith(f"error: {database} was not free within 0.3 seconds: process ")
    assert remedy.startswith("remedy: Let that process finish or stop it, then try again; ")
    assert fingerprint(database) == before
