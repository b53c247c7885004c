"""A refusal changes nothing: not the database, and not the files and folders beside it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests.cli.conftest import Command, Db
from tests.cli.places import REFUSED, execute, fingerprint, listing
from tests.support.contents import OTHER_KEY
from tests.support.revisions import HEAD

#: Every command that uses a database, with its other arguments.
COMMANDS = (
    *("current", "check", "upgrade", "upgrade --dry-run", "history", "log", "doctor", "backups"),
    *("backup", "restore --newest -y", "repair -y", "downgrade -y", f"stamp {HEAD}"),
)

#: Those that lock it.
LOCKING = ("upgrade", "repair -y", "downgrade -y", f"stamp {HEAD}")


@pytest.mark.parametrize("state", REFUSED)
@pytest.mark.parametrize("line", COMMANDS)
def test_a_refused_database_gets_no_file_beside_it(line: str, state: str, db: Db) -> None:
    """A database that an inspection refuses keeps its bytes, its times and its neighbours."""
    path = db.put(state)
    before = (listing(path.parent), fingerprint(path))
    done = db(*line.split())
    # `db repair` makes one of them usable.
    if done.status and "backup: " not in done.out:
        assert (listing(path.parent), fingerprint(path)) == before


@pytest.mark.parametrize("line", LOCKING)
def test_a_wrong_key_leaves_no_file(line: str, db: Db, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of another key is refused before it is locked."""
    path = db.put("behind")
    sealed = "UPDATE refresh_tokens SET encrypted_token = 'gAAAAABk' || hex(randomblob(60))"
    execute(path, sealed)
    monkeypatch.setenv("TOKEN_ENCRYPTION_KEY", OTHER_KEY)
    before = (listing(path.parent), fingerprint(path))
    assert db.refused(*line.replace(HEAD, "007").split()) == "wrong-key"
    assert (listing(path.parent), fingerprint(path)) == before


@pytest.mark.parametrize(
    "line", ["upgrade -r 999", "upgrade -r base", "downgrade -y", f"stamp {HEAD}", "repair -y"]
)
def test_a_refusal_makes_no_folder(line: str, tmp_path: Path, command: Command) -> None:
    """The folder of a database that is not made is not made either."""
    done = command("db", *line.split(), "-d", str(tmp_path / "new" / "tokens.db"))
    assert done.status == (2 if line == "upgrade -r base" else 1)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("locked", [False, True], ids=["free", "locked"])
@pytest.mark.parametrize("line", COMMANDS)
def test_the_lock_file_of_another_program_is_left(
    line: str, locked: bool, tmp_path: Path, command: Command
) -> None:
    """`-d uv` beside a file uv.lock is refused by name, and uv.lock keeps its content."""
    lock = tmp_path / "uv.lock"
    lock.write_text('version = 1\nrequires-python = ">=3.11"\n')
    before = (listing(tmp_path), fingerprint(lock))
    with lock.open() as file:
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        done = command("db", *line.split(), "-d", str(tmp_path / "uv"))
    assert (listing(tmp_path), fingerprint(lock)) == before
    if line == "upgrade":
        assert done.status == 1
        assert f"{lock} should be the lock of" in done.err
        assert "[bad-path]" in done.err


@pytest.mark.parametrize("line", ["upgrade", "downgrade -y", f"stamp {HEAD}"])
def test_a_database_beside_another_programs_lock_file_is_refused(line: str, db: Db) -> None:
    """Whatever is to be changed, the file that has the name of the lock is kept."""
    path = db.put("behind")
    lock = path.with_name("tokens.db.lock")
    lock.write_text("a note")
    before = (listing(path.parent), fingerprint(path), fingerprint(lock))
    assert db.refused(*line.replace(HEAD, "007").split()) == "bad-path"
    assert (listing(path.parent), fingerprint(path), fingerprint(lock)) == before
