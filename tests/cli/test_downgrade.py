"""What `db downgrade` says, asks and does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate import change
from nextcloud_mcp_server.migrations import get_current_revision
from tests.cli.conftest import Command
from tests.cli.places import BACKUP, ONE_GRANT, Shelf, execute, fingerprint, rows
from tests.support import revisions
from tests.support.revisions import ALL, BEFORE, HEAD

UNDONE = "Add migration journal. Loses: the journal of migrations."
if HEAD in revisions.NEWER:
    UNDONE = "{0.title}. Loses: {0.loses}".format(revisions.described(HEAD))
BACK = (
    f"{{db}} is at revision {HEAD} and goes back to revision {BEFORE}. This undoes:\n"
    f"  {HEAD}  {UNDONE}\n"
    f"Rows are backed up first. The next start of this version upgrades it to {HEAD} again.\n"
)
DECLINED = (
    "error: %s, so nothing was changed. [declined]\n"
    "remedy: To go back without being asked: nextcloud-mcp-server db downgrade --revision "
    f"{BEFORE} "
    "-d {db} --yes\n"
)


@pytest.mark.parametrize("answer", [b"y\n", b"Y\n", b"yes\n", b" YES \r\n", b"y"])
def test_downgrade_reads_a_piped_yes(
    answer: bytes, shelf: Shelf, database: Path, command: Command
) -> None:
    """`echo y | ... db downgrade` says what is lost, backs up and goes one step back."""
    shelf.put("at-head", database)
    done = command("db", "downgrade", "-d", str(database), stdin=answer)
    assert done.status == 0
    assert done.err == BACK.format(db=database) + "Go back? [y/N] \n"
    words = BACKUP.format(db=re.escape(str(database)), revision=HEAD)
    back = f"downgraded {re.escape(str(database))} from {HEAD} to {BEFORE}\n"
    assert re.fullmatch(back + words, done.out)
    assert get_current_revision(database) == BEFORE


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "There was nobody to ask"),
        (b"n\n", "The answer was not yes"),
        (b"\n", "The answer was not yes"),
        (b"yellow\n", "The answer was not yes"),
        (b"\xff\x00\n", "The answer was not yes"),
        (b"y" * 100_000, "The answer was not yes"),
    ],
)
def test_downgrade_refuses_any_other_answer(
    answer: bytes, why: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """A closed input and anything but yes change nothing, and name the way without a question."""
    before = fingerprint(shelf.put("at-head", database))
    done = command("db", "downgrade", "-d", str(database), stdin=answer)
    assert (done.status, done.out) == (1, "")
    expected = BACK + "Go back? [y/N] \n" + DECLINED % why
    assert done.err == expected.format(db=database)
    assert fingerprint(database) == before


def test_downgrade_with_yes_asks_nothing(shelf: Shelf, database: Path, command: Command) -> None:
    """--yes says what is lost all the same, and goes."""
    shelf.put("at-head", database)
    done = command("db", "downgrade", "-d", str(database), "--yes")
    assert (done.status, done.err) == (0, BACK.format(db=database))


def test_downgrade_as_json(shelf: Shelf, database: Path, command: Command) -> None:
    """With --json stdout holds the document alone, and the question is on stderr."""
    shelf.put("at-head", database)
    refused = command("db", "downgrade", "-d", str(database), "--json")
    assert (refused.status, json.loads(refused.out)["error"]["code"]) == (1, "declined")
    done = command("db", "downgrade", "-d", str(database), "--json", "-r", "-2", stdin=b"y\n")
    document = json.loads(done.out)
    assert Path(document.pop("backup")).is_file()
    assert document == {
        "database": str(database),
        "before": HEAD,
        "after": ALL[-3],
        "steps": [HEAD, BEFORE],
    }
    assert "Go back? [y/N]" in done.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-r", "-1"], BEFORE),
        (["--revision", "-1"], BEFORE),
        (["--revision=-3"], ALL[-4]),
        (["-r-3"], ALL[-4]),
        (["-r", f"-{len(ALL)}"], None),
        (["-r", "base"], None),
        (["--revision", "base"], None),
        (["--revision=003"], "003"),
    ],
)
def test_downgrade_takes_steps_ids_and_base(
    words: list[str], expected: str | None, shelf: Shelf, database: Path, command: Command
) -> None:
    """-N, an id and `base` are understood in every spelling, although -1 looks like an option."""
    shelf.put("at-head", database)
    done = command("db", "downgrade", "-d", str(database), "-y", *words)
    assert done.status == 0, done.err
    assert get_current_revision(database) == expected


def test_downgrade_to_base_says_that_everything_goes(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """Each revision to be undone is listed with what it loses, newest first."""
    shelf.put("at-head", database)
    done = command("db", "downgrade", "-d", str(database), "-y", "-r", "base")
    lines = done.err.splitlines()
    assert "goes back to the beginning, without any table" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]] == list(reversed(ALL))
    assert lines[-2].endswith(
        "Loses: every table and row: all grants, clients, sessions and the audit log."
    )
    assert f"from {HEAD} to base: it holds no table of this program" in done.out
    assert command("db", "upgrade", "-d", str(database)).out.startswith(f"created {database}")


@pytest.mark.parametrize(
    "revision", [HEAD, "-0", f"-{len(ALL) + 1}", "-²", "-" + "9" * 5000, "011", "x\n"]
)
def test_downgrade_refuses_what_is_not_below(
    revision: str, shelf: Shelf, database: Path, command: Command
) -> None:
    """A revision that is not below, and more steps than there are, change nothing."""
    before = fingerprint(shelf.put("at-head", database))
    done = command("db", "downgrade", "-d", str(database), "-y", "-r", revision)
    assert (done.status, done.out) == (1, "")
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["error", "remedy"]
    assert fingerprint(database) == before


def test_downgrade_by_too_many_steps_names_the_command(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """The remedy can be typed as it stands, and asks before everything is lost."""
    shelf.put("at-head", database)
    done = command("db", "downgrade", "-d", str(database), "-y", "-r", "-99")
    _, _, typed = done.err.rstrip().rpartition(": nextcloud-mcp-server ")
    assert done.err.splitlines()[1].startswith("remedy: To undo every revision, and lose every row")
    done = command(*shlex.split(typed), stdin=b"n\n")
    assert "goes back to the beginning, without any table" in done.err
    assert done.err.splitlines()[-2].endswith(" [declined]")


def test_downgrade_undoes_no_more_than_was_agreed_to(shelf: Shelf, database: Path) -> None:
    """A database that went up while the person was thinking is left as it is."""
    before = fingerprint(shelf.put("at-head", database))
    with pytest.raises(TokenStorageError, match="at revision 009 when") as error:
        change.downgrade(database, "008", agreed_from="009")
    assert error.value.code == "declined"
    assert fingerprint(database) == before


def test_rows_survive_the_way_down_and_up(shelf: Shelf, database: Path, command: Command) -> None:
    """A grant stored at head is there after a downgrade and an upgrade."""
    shelf.put("at-head", database)
    execute(database, ONE_GRANT.replace("alice", "bob"))
    assert command("db", "downgrade", "-d", str(database), "-y", "-r", "001").status == 0
    assert command("db", "upgrade", "-d", str(database)).status == 0
    found = rows(database, "SELECT user_id FROM refresh_tokens ORDER BY user_id")
    assert found == [("alice",), ("bob",)]
