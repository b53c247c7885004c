"""Revisions as people type them for Alembic: `db upgrade +1`, `db downgrade -1`, `head`, `base`."""

from __future__ import annotations

import json
import shlex

import pytest

from nextcloud_mcp_server.migrations import get_current_revision
from tests.cli.conftest import Command, Db
from tests.support.revisions import ALL, BEFORE, HEAD


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("head", HEAD),
        ("heads", HEAD),
        ("-r heads", HEAD),
        ("005", "005"),
        ("+1", "001"),
        ("-r +3", "003"),
        ("--revision=+3", "003"),
        (f"+{len(ALL)}", HEAD),
    ],
)
def test_upgrade_takes_a_revision_as_alembic_does(arguments: str, expected: str, db: Db) -> None:
    """A revision may follow the command: an id, `head` or a number of steps up."""
    done = db("upgrade", *arguments.split())
    assert done.status == 0, done.err
    assert get_current_revision(db.path) == expected


def test_steps_up_count_from_the_revision_that_it_has(db: Db) -> None:
    """`+1` runs one migration after the recorded one, also as a rehearsal and as statements."""
    db("upgrade", "005")
    assert "it is at revision 006" in db("upgrade", "+1", "--dry-run").out
    assert "from revision 005 to 007" in db("upgrade", "--sql", "+2").out
    assert db("upgrade", "+1").status == 0
    assert get_current_revision(db.path) == "006"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-1", BEFORE),
        ("-1 -y", BEFORE),
        ("-- -1", BEFORE),
        ("-2", ALL[-3]),
        ("010", "010"),
        ("base", None),
        ("-r -1", BEFORE),
        ("-yr -2", ALL[-3]),
    ],
)
def test_downgrade_takes_a_revision_as_alembic_does(
    arguments: str, expected: str | None, db: Db, command: Command
) -> None:
    """A revision may follow the command, although `-1` looks like an option."""
    db.put("at-head")
    done = command("db", "downgrade", "-d", str(db.path), "-y", *arguments.split())
    assert done.status == 0, done.err
    assert get_current_revision(db.path) == expected


def test_minus_one_may_stand_before_the_options(db: Db) -> None:
    """The options behind `-1` keep their values."""
    db.put("at-head")
    assert db("downgrade", "-1", "--yes").status == 0
    assert get_current_revision(db.path) == BEFORE


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("upgrade +99", 1),
        ("upgrade +0", 1),
        ("upgrade 007", 1),
        (f"downgrade --revision {HEAD}", 1),
        ("downgrade 008", 1),
        ("downgrade -99", 1),
        ("upgrade -1", 2),
        ("upgrade base", 2),
        ("downgrade head", 2),
        ("downgrade +1", 2),
    ],
)
def test_the_wrong_direction_is_refused_with_a_command(
    arguments: str, status: int, db: Db, command: Command
) -> None:
    """The remedy can be typed; what no database makes right is wrong usage."""
    if arguments != "upgrade +0":
        db("upgrade", "008")
    done = db(*arguments.split(), "--json")
    assert (done.status, json.loads(done.out)["error"]["code"]) == (status, "bad-input")
    remedy = db(*arguments.split()).err.splitlines()[1]
    typed = shlex.split(remedy.rpartition(": nextcloud-mcp-server ")[2])
    assert command(*typed, "--dry-run" if "upgrade" in typed else "--help").status == 0


@pytest.mark.parametrize(
    ("arguments", "says", "remedy"),
    [
        ("upgrade +99", f"is at {HEAD}, the newest revision.", "db history"),
        ("upgrade -0", "-0 is no step, so nothing is to be done.", "db current"),
        ("upgrade -00", "-00 is no step, so nothing is to be done.", "db current"),
        ("downgrade +0", "+0 is no step, so nothing is to be done.", "db current"),
        ("downgrade -0", "a downgrade has nothing to do.", "db downgrade -d"),
        (f"downgrade {HEAD}", "a downgrade has nothing to do.", "db downgrade -d"),
    ],
)
def test_no_remedy_leads_in_a_circle(
    arguments: str, says: str, remedy: str, db: Db, command: Command
) -> None:
    """Where nothing is to be done, the error says so, and its command is another one."""
    db.put("at-head")
    message, advice, *_ = db(*arguments.split()).err.splitlines()
    assert says in message
    assert f": nextcloud-mcp-server {remedy}" in advice
    typed = shlex.split(advice.rpartition(": nextcloud-mcp-server ")[2])
    assert command(*typed, *(["--dry-run"] if "downgrade" in typed else [])).status == 0
    assert get_current_revision(db.path) == HEAD


@pytest.mark.parametrize(
    "arguments", ["downgrade 010 -r 009", "downgrade -1 -2", "upgrade 005 006", "downgrade -1x"]
)
def test_two_revisions_are_wrong_usage(arguments: str, db: Db) -> None:
    """A revision is given once; nothing is done if it is not clear which."""
    db.put("at-head")
    assert db(*arguments.split()).status == 2
    assert get_current_revision(db.path) == HEAD


@pytest.mark.parametrize("arguments", ["upgrade", "upgrade -r", "downgrade", "stamp", "show"])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [("4", "004"), ("04", "004"), ("v4", "004"), (f"0{HEAD}", HEAD), ("999", "")],
)
def test_an_id_without_its_zeros_is_answered_with_the_id(
    typed: str, meant: str, arguments: str, db: Db, command: Command
) -> None:
    """The error asks whether the id of three digits was meant, if there is one."""
    db.put("at-head")
    line = ("db", *arguments.split(), typed)
    done = command(*line) if arguments == "show" else db(*line[1:])
    assert done.status == 1
    hint = f" Did you mean {meant}?" if meant else ""
    expected = f"error: There is no revision {typed}; the newest is {HEAD}.{hint}"
    assert done.err.splitlines()[0] == f"{expected} [unknown-revision]"
    assert get_current_revision(db.path) == HEAD
