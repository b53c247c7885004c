"""The question that downgrade, repair and restore ask, and what is checked before it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.maintenance.backup import back_up
from tests.cli.conftest import Command, Db
from tests.cli.places import damage, execute, fingerprint, listing
from tests.support.contents import KEY, OTHER_KEY

ABORTED = "Aborted. Nothing was changed."
NOT_INTERACTIVE = (
    "This needs confirmation and the input is not interactive: pass --yes. Nothing was changed."
)

#: By command: its question, the state that it needs, and its arguments.
QUESTIONS = {
    "downgrade": ("Go back?", "at-head", ()),
    "repair": ("Fix these problems? A backup is made first.", "two-rows", ()),
    "restore": ("Restore?", "at-head", ("--newest",)),
}


def put(name: str, db: Db) -> tuple[str, ...]:
    """Put a database there for a command, and return the command's arguments."""
    _, state, arguments = QUESTIONS[name]
    db.put(state).chmod(0o600)
    if name == "restore":
        back_up(db.path)
    return (name, *arguments)


@pytest.mark.parametrize(
    "answer", [b"", b"n\n", b"\n", b"yellow\n", b"\xff\x00\n", b"y" * 100_000], ids=len
)
@pytest.mark.parametrize("name", QUESTIONS)
def test_only_yes_is_yes(name: str, answer: bytes, db: Db, command: Command) -> None:
    """Any other answer, and none, changes nothing; the remedy names a command that runs."""
    arguments = put(name, db)
    before = (fingerprint(db.path), listing(db.path.parent))
    done = db(*arguments, stdin=answer)
    assert (done.status, done.out) == (1, "")
    question, error, remedy = done.err.splitlines()[-3:]
    assert question == f"{QUESTIONS[name][0]} [y/N] "
    assert error == f"error: {ABORTED if answer else NOT_INTERACTIVE} [declined]"
    assert (fingerprint(db.path), listing(db.path.parent)) == before
    found = re.fullmatch(
        r"remedy: To do it without confirmation: nextcloud-mcp-server (.* --yes)", remedy
    )
    assert found
    if not answer:
        # A repair exits 1: no key is set for the secret of the test database.
        assert command(*shlex.split(found[1])).status == (1 if name == "repair" else 0)
        assert fingerprint(db.path) != before[0]


@pytest.mark.parametrize("answer", [b"y\n", b"Y\n", b"yes\n", b" YES \r\n", b"y"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_piped_yes_is_read(name: str, answer: bytes, db: Db) -> None:
    """The answer may come from a pipe, in either case, with spaces around it."""
    before = fingerprint(db.path)
    done = db(*put(name, db), stdin=answer)
    assert f"{QUESTIONS[name][0]} [y/N] \n" in done.err
    assert "[declined]" not in done.err
    assert fingerprint(db.path) != before


Obstacle = Callable[[Path, pytest.MonkeyPatch], None]


def _keys(keys: str) -> Obstacle:
    return lambda _path, patch: patch.setenv("TOKEN_ENCRYPTION_KEY", keys)


def _read_only(_path: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(permissions, "unwritable", lambda _: "the disk is read-only")


def _damaged(path: Path, _patch: pytest.MonkeyPatch) -> None:
    damage(path, "oauth_sessions")


#: What prevents a change, and its code.
OBSTACLES: dict[str, tuple[Obstacle, str]] = {
    "a wrong key": (_keys(f"{KEY};{OTHER_KEY}"), "wrong-key"),
    "a malformed key": (_keys("abc"), "malformed-key"),
    "a read-only disk": (_read_only, "read-only"),
    "a damaged page": (_damaged, "corrupt"),
}


@pytest.mark.parametrize(
    "case", [(name, kind) for name in ("downgrade", "repair") for kind in OBSTACLES], ids="-".join
)
def test_obstacles_are_found_before_the_question(
    case: tuple[str, str], db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error and its remedy are printed without a plan and a question; nothing changes."""
    arguments = put(case[0], db)
    prepare, code = OBSTACLES[case[1]]
    prepare(db.path, monkeypatch)
    before = (fingerprint(db.path), listing(db.path.parent))
    done = db(*arguments, stdin=b"y\n")
    assert (done.status, done.out) == (1, "")
    error, remedy = done.err.splitlines()
    assert error.startswith("error: ")
    assert error.endswith(f" [{code}]")
    assert remedy.startswith("remedy: ")
    assert (fingerprint(db.path), listing(db.path.parent)) == before


def test_foreign_tables_stop_a_downgrade_to_base_before_the_question(db: Db) -> None:
    """A database with tables of another program cannot go back to base."""
    execute(db.put("at-head"), "CREATE TABLE songs (title TEXT)")
    done = db("downgrade", "-r", "base", stdin=b"y\n")
    assert done.status == 1
    assert done.err.startswith(f"error: {db.path} also holds songs: ")
    assert "[y/N]" not in done.err


@pytest.mark.parametrize("keys", ["abc", KEY])
def test_a_repair_with_nothing_to_do_verifies_the_keys(
    keys: str, db: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that decrypts nothing may mean the wrong database, and is an error."""
    db.put("at-head")
    db.path.chmod(0o600)
    before = (fingerprint(db.path), listing(db.path.parent))
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", keys)
    done = db("repair", "--yes")
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[0].endswith(" [wrong-key]" if keys == KEY else " [malformed-key]")
    assert (fingerprint(db.path), listing(db.path.parent)) == before
