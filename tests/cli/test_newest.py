"""What `db restore --newest` does and says, and that the remedies which name it can be typed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from nextcloud_mcp_server.maintenance.backup import back_up
from tests.cli.conftest import Command
from tests.cli.places import Shelf, execute, fingerprint, process, rows
from tests.maintenance.restore.harm import flip
from tests.support.revisions import HEAD

USERS = "SELECT user_id FROM refresh_tokens"


@pytest.fixture
def two(shelf: Shelf, database: Path) -> tuple[Path, Path]:
    """A good backup with one token, a newer one that is no good, and a database without any."""
    shelf.put("at-head", database)
    good, bad = back_up(database), back_up(database)
    flip(bad)
    execute(database, "DELETE FROM refresh_tokens")
    return good, bad


def typed(said: str) -> tuple[str, ...]:
    """The arguments of the command that a remedy names, as a shell reads them."""
    [line] = re.findall(r"^remedy: .*nextcloud-mcp-server (db restore .*)$", said, re.MULTILINE)
    return tuple(shlex.split(line.partition(" (")[0]))


def test_the_newest_backup_one_is_restored(
    two: tuple[Path, Path], database: Path, command: Command
) -> None:
    """It says which newer one it passed over and why, which one it takes, and asks."""
    good, bad = two
    done = command("db", "restore", "--newest", "-d", str(database), stdin=b"y\n")
    assert done.status == 0
    first, second, third, *_ = done.err.splitlines()
    assert first == (
        f"warning: passed over: {bad} has been changed since it was made: its SHA-256 is not the "
        "one in its manifest."
    )
    assert second == f"{database} is at revision {HEAD}."
    assert third.startswith(f"It is replaced by {good}, made ")
    assert done.out.startswith(f"restored {database} from {good} in ")
    assert rows(database, USERS) == [("alice",)]


def test_as_json_it_says_what_it_passed_over(
    two: tuple[Path, Path], database: Path, command: Command
) -> None:
    """The same facts, and none passed over where the backup was named."""
    good, bad = two
    done = command("db", "restore", "--newest", "-d", str(database), "--yes", "--json")
    document = json.loads(done.out)
    assert (done.status, document["backup"]) == (0, str(good))
    [passed] = document["passed_over"]
    assert passed["backup"] == str(bad)
    assert passed["reason"].startswith(f"{bad} has been changed since it was made: ")
    named = command("db", "restore", str(good), "-d", str(database), "--yes", "--json")
    assert json.loads(named.out)["passed_over"] == []


def test_what_is_declined_can_be_typed_again(
    two: tuple[Path, Path], database: Path, command: Command
) -> None:
    """With --newest as it was typed, and nothing is changed before."""
    before = fingerprint(database)
    done = command("db", "restore", "--newest", "-d", str(database))
    assert (done.status, done.out) == (1, "")
    assert fingerprint(database) == before
    assert typed(done.err) == ("db", "restore", "--newest", "-d", str(database), "--yes")
    assert command(*typed(done.err)).status == 0
    assert rows(database, USERS) == [("alice",)]
    assert two[0].is_file()


@pytest.mark.parametrize("state", ["corrupt", "no-grants"])
def test_the_remedy_for_a_bad_database_can_be_typed(
    state: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """As it stands: the question is answered, and the tokens are back."""
    back_up(shelf.put("at-head", database))
    shelf.put(state, database)
    refused = command("db", "current", "-d", str(database))
    words = typed(refused.err)
    assert words == ("db", "restore", "--newest", "-d", str(database))
    assert command(*words, stdin=b"y\n").status == 0
    assert command("db", "current", "-d", str(database)).out == f"{HEAD} (head)\n"
    assert rows(database, USERS) == [("alice",)]


def test_without_a_good_one_nothing_is_changed(
    two: tuple[Path, Path], database: Path, command: Command
) -> None:
    """One error with its code, and the database is as it was."""
    good, bad = two
    flip(good)
    before = fingerprint(database)
    done = command("db", "restore", "--newest", "-d", str(database), "--yes", "--json")
    error = json.loads(done.out)["error"]
    assert (done.status, error["code"]) == (1, "bad-backup")
    assert f"(2 read). The newest: {bad} has been changed" in error["message"]
    assert fingerprint(database) == before


@pytest.mark.parametrize("words", [(), ("kept.db", "--newest")], ids=["neither", "both"])
def test_one_backup_is_named_or_the_newest(
    words: tuple[str, ...], database: Path, command: Command
) -> None:
    """Neither and both are wrong usage, and say so in one line."""
    done = command("db", "restore", *words, "-d", str(database))
    assert (done.status, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "Error: Give BACKUP or --newest, one of the two."


def test_the_newest_is_restored_by_a_process(two: tuple[Path, Path], tmp_path: Path) -> None:
    """As typed in a shell, with a relative path and a piped yes."""
    done = process("db", "restore", "--newest", "-d", "tokens.db", cwd=tmp_path, stdin=b"y\n")
    assert done.status == 0, done.err
    assert done.out.startswith(f"restored tokens.db from {two[0].name} in ")
