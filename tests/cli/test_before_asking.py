"""What is known beforehand is refused before a person is asked, not after a yes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nextcloud_mcp_server.filesystem import permissions
from tests.cli.conftest import Command
from tests.cli.places import Shelf, damage, execute, fingerprint, listing
from tests.support.contents import KEY, OTHER_KEY

#: A state of a database in which each command has something to do.
STATES = {"downgrade": "at-head", "repair": "two-rows"}

Obstacle = Callable[[Path, pytest.MonkeyPatch], None]


def _keys(keys: str) -> Obstacle:
    return lambda _path, patch: patch.setenv("TOKEN_ENCRYPTION_KEY", keys)


def _unwritable(_path: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(permissions, "unwritable", lambda _: "the disk is a compact disc")


def _damaged(path: Path, _patch: pytest.MonkeyPatch) -> None:
    damage(path, "oauth_sessions")


#: What is in the way, and the code that tells so.
OBSTACLES: dict[str, tuple[Obstacle, str]] = {
    "a wrong key": (_keys(f"{KEY};{OTHER_KEY}"), "wrong-key"),
    "a malformed key": (_keys("abc"), "malformed-key"),
    "a read-only disk": (_unwritable, "read-only"),
    "a damaged page": (_damaged, "corrupt"),
}

CASES = [(name, obstacle) for name in STATES for obstacle in OBSTACLES]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_what_is_in_the_way_is_told_before_the_question(
    case: tuple[str, str],
    shelf: Shelf,
    database: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line and a remedy, without a plan and without a question; nothing changes."""
    name, obstacle = case
    shelf.put(STATES[name], database)
    put, code = OBSTACLES[obstacle]
    put(database, monkeypatch)
    before = (fingerprint(database), listing(database.parent))
    done = command("db", name, "-d", str(database), stdin=b"y\n")
    assert (done.status, done.out) == (1, "")
    error, remedy = done.err.splitlines()
    assert error.startswith("error: ")
    assert error.endswith(f" [{code}]")
    assert remedy.startswith("remedy: ")
    assert (fingerprint(database), listing(database.parent)) == before


def test_what_base_would_strand_is_told_before_the_question(
    shelf: Shelf, database: Path, command: Command
) -> None:
    """A database that holds tables of others cannot go to base: nobody has to agree first."""
    execute(shelf.put("at-head", database), "CREATE TABLE songs (title TEXT)")
    done = command("db", "downgrade", "-d", str(database), "-r", "base", stdin=b"y\n")
    assert done.status == 1
    assert done.err.startswith(f"error: {database} also holds songs: ")
    assert "[y/N]" not in done.err


@pytest.mark.parametrize("keys", ["abc", KEY])
def test_a_repair_with_nothing_to_mend_proves_the_keys_too(
    keys: str, shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who repairs with a key that opens nothing may be at the wrong database, and is told."""
    shelf.put("at-head", database)
    database.chmod(0o600)
    before = (fingerprint(database), listing(database.parent))
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", keys)
    done = command("db", "repair", "-d", str(database), "--yes")
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[0].endswith(" [wrong-key]" if keys == KEY else " [malformed-key]")
    assert (fingerprint(database), listing(database.parent)) == before
