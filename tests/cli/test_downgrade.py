"""`db downgrade`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from nextcloud_mcp_server.migrations import get_current_revision
from tests.cli.conftest import Command, Db
from tests.cli.places import BACKUP, process
from tests.support import revisions
from tests.support.revisions import ALL, BEFORE, HEAD

UNDONE = "Add migration journal. Loses: the journal of migrations."
if HEAD in revisions.NEWER:
    UNDONE = "{0.title}. Loses: {0.loses}".format(revisions.described(HEAD))
WARNING = (
    f"{{db}} is at revision {HEAD} and goes back to revision {BEFORE}. This undoes:\n"
    f"  {HEAD}  {UNDONE}\n"
    f"Rows are backed up first. The next start of this version upgrades it to {HEAD} again.\n"
)


@pytest.mark.parametrize("with_yes", [False, True])
def test_downgrade_warns_and_goes_back(with_yes: bool, db: Db) -> None:
    """It prints what will be lost, with or without a question, backs up, and goes back one."""
    db.put("at-head")
    done = db("downgrade", "--yes") if with_yes else db("downgrade", stdin=b"y\n")
    question = "" if with_yes else "Go back? [y/N] \n"
    assert (done.status, done.err) == (0, WARNING.format(db=db.path) + question)
    path = re.escape(str(db.path))
    backup = BACKUP.format(db=path, revision=HEAD)
    assert re.fullmatch(f"downgraded {path} from {HEAD} to {BEFORE}\n{backup}", done.out)
    assert get_current_revision(db.path) == BEFORE


def test_downgrade_as_json(db: Db) -> None:
    """With --json stdout holds only the document; the question is on stderr."""
    db.put("at-head")
    assert db.refused("downgrade") == "declined"
    done = db("downgrade", "--json", "-r", "-2", stdin=b"y\n")
    document = json.loads(done.out)
    assert Path(document.pop("backup")).is_file()
    assert document == {
        "database": str(db.path),
        "before": HEAD,
        "after": ALL[-3],
        "steps": [HEAD, BEFORE],
        "rows_deleted": {},
        "secrets_encrypted": {},
        "key": None,
    }
    assert "Go back? [y/N]" in done.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("-r -1", BEFORE),
        ("--revision -1", BEFORE),
        ("--revision=-3", ALL[-4]),
        ("-r-3", ALL[-4]),
        (f"-r -{len(ALL)}", None),
        ("-r base", None),
        ("--revision base", None),
        ("--revision=003", "003"),
    ],
)
def test_downgrade_takes_steps_ids_and_base(arguments: str, expected: str | None, db: Db) -> None:
    """-N, an id and `base` are parsed in every spelling, although -1 looks like an option."""
    db.put("at-head")
    done = db("downgrade", "-y", *arguments.split())
    assert done.status == 0, done.err
    assert get_current_revision(db.path) == expected


def test_downgrade_to_base_lists_every_loss(db: Db) -> None:
    """Each revision to be undone is listed with what it loses, newest first."""
    db.put("at-head")
    done = db("downgrade", "-y", "-r", "base")
    lines = done.err.splitlines()
    assert "goes back to base, where it has no tables" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]] == list(reversed(ALL))
    assert lines[-2].endswith(
        "Loses: every table and row: all grants, clients, sessions and the audit log."
    )
    assert f"from {HEAD} to base: it has no tables of this program" in done.out
    assert db("upgrade").out.startswith(f"created {db.path}")


def test_the_remedy_for_too_many_steps_is_a_command(db: Db, command: Command) -> None:
    """The command can be typed as printed; it asks before everything is lost."""
    db.put("at-head")
    done = db("downgrade", "-y", "-r", "-99")
    _, _, typed = done.err.rstrip().rpartition(": nextcloud-mcp-server ")
    assert done.err.splitlines()[1].startswith("remedy: To undo every revision, and lose every row")
    done = command(*shlex.split(typed), stdin=b"n\n")
    assert "goes back to base, where it has no tables" in done.err
    assert done.err.splitlines()[-2].endswith(" [declined]")


def test_python_oo_does_not_drop_what_a_downgrade_loses(db: Db, tmp_path: Path) -> None:
    """`python -OO` has no docstrings, so the loss is read from the files of the revisions."""
    db.put("at-head")
    asked = ("db", "downgrade", "-d", str(db.path))
    lines = [
        process(*asked, cwd=tmp_path, stdin=b"n\n", environ={"PYTHONOPTIMIZE": level}).err
        for level in ("0", "2")
    ]
    assert f"  {HEAD}  {UNDONE}\n" in lines[0]
    assert lines[0] == lines[1]
