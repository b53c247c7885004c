"""Every file of this program is private from its first byte, and no link is followed."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.filesystem.files import BESIDE, COMPANIONS, private_file
from nextcloud_mcp_server.migrations import upgrade_database
from tests.cli.places import environment
from tests.faults.injection import build_library
from tests.support.child import run_program
from tests.support.contents import KEY
from tests.support.revisions import HEAD

#: The flags of which one keeps an open from following a link.
_NO_LINK: Final = os.O_EXCL | os.O_NOFOLLOW


class Created(NamedTuple):
    """A file or folder, its mode when it was created, and how; the flags of a chmod are -1."""

    mode: int
    flags: int
    path: Path

    @property
    def is_private(self) -> bool:
        """Whether only its user can use it, and no link was followed to create it."""
        no_link = (self.flags in {-1, 0} and self.mode == 0o700) or self.flags & _NO_LINK
        return not self.mode & 0o077 and bool(no_link)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that writes down what a process creates."""
    made = build_library(tmp_path_factory.mktemp("library"), "creations.c")
    if made is None:
        pytest.skip("LD_PRELOAD and a C compiler are needed")
    return made


class Recorder:
    """Runs programs under ``umask 000``, and reads what they create below a folder."""

    def __init__(self, library: Path, folder: Path, to: Path) -> None:
        """Watch ``folder``; ``to`` is outside of it."""
        self.folder = folder
        self._to = to
        self._library = library
        (folder / "tmp").mkdir(mode=0o700)

    def run(self, *program: str, status: int = 0, **environ: str) -> list[Created]:
        """Run Python with these arguments; return what it created, in order."""
        self._to.unlink(missing_ok=True)
        own = {
            "LD_PRELOAD": str(self._library),
            "CREATIONS_TO": str(self._to),
            "CREATIONS_BELOW": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, *program],
            cwd=self.folder,
            env=environment(self.folder, {**own, **environ}),
            umask=0,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stderr
        lines = self._to.read_text("utf-8").splitlines() if self._to.exists() else []
        found = [line.split(" ", 2) for line in lines]
        return [Created(int(m, 8), int(f), Path(p)) for m, f, p in found]


@pytest.fixture
def recorder(library: Path, tmp_path: Path) -> Recorder:
    """Watch a new folder."""
    (tmp_path / "data").mkdir(mode=0o700)
    return Recorder(library, tmp_path / "data", tmp_path / "created")


#: Opens a store, keeps it open while it stores and reads, and closes it.
STORE: Final = """
import asyncio, sys
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

async def main():
    async with RefreshTokenStorage(sys.argv[1]) as storage:
        await storage.store_refresh_token("alice", "token")
        await storage.get_refresh_token("alice")
        if sys.argv[2:] == ["lost"]:
            import os
            os.unlink(sys.argv[1])

asyncio.run(main())
"""

#: Does the same, and may be refused.
ANY_END: Final = STORE.replace(
    "asyncio.run(main())",
    """
from nextcloud_mcp_server.errors import TokenStorageError
try:
    asyncio.run(main())
except TokenStorageError as error:
    print(error.code)
""",
)

#: Ends in a transaction, whose journal another program has to roll back.
CRASH: Final = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=DELETE")
connection.execute("PRAGMA cache_size=2")
connection.execute("BEGIN")
connection.execute("UPDATE refresh_tokens SET scopes = 'x'")
connection.execute("CREATE TABLE spilled AS SELECT zeroblob(500000) AS zeros")
os._exit(0)
"""

MAIN: Final = ("-m", "nextcloud_mcp_server")

#: Uses each fixture that makes a database.
PLUGIN: Final = """
def test_it(token_db, token_db_at, token_storage, migration_walk):
    migration_walk(token_db_at("009")).up("010")
    migration_walk(token_db).down("103")
"""

_BACKUPS: Final = ("009", HEAD, *(f"{HEAD}-{why}" for why in ("manual", "replaced", "rescued")))

#: What must be among the created files, or the test would see nothing.
SEEN: Final = {
    *(f"{name}{suffix}" for name in ("tokens.db", "crashed.db") for suffix in COMPANIONS),
    *("tokens.db", "tokens.db.lock", "tokens.db.inuse", ".tokens.db.key.RANDOM.partial"),
    *("copy.db", "copy.db.lock", "made", ".crashed.db.damaged-TIME.RANDOM.partial"),
    *(
        ".tokens.db.backup-restoring.RANDOM.partial",
        ".crashed.db.damaged-TIME-journal.RANDOM.partial",
    ),
    *(f".tokens.db.backup-TIME-{name}.RANDOM.partial" for name in _BACKUPS),
    *(f".tokens.db.backup-TIME-{name}.json.RANDOM.partial" for name in _BACKUPS),
}


def _kind(path: Path) -> str:
    """Return a name without its random and its time."""
    name = re.sub(r"\d{8}T\d{6}\.\d{6}Z", "TIME", path.name)
    return re.sub(r"\b[0-9a-f]{6}\b|tokens-[a-z0-9_]{8}", "RANDOM", name)


def _lives(recorder: Recorder) -> Iterator[tuple[str, list[Created]]]:
    """Run each kind of work on a database once."""
    path = recorder.folder / "tokens.db"
    db = ("-d", str(path))
    yield "new", recorder.run("-c", STORE, str(path))
    yield "start", recorder.run("-c", STORE, str(path))
    yield "backup", recorder.run(*MAIN, "db", "backup", *db)
    to = str(recorder.folder / "made" / "copy.db")
    yield "copy", recorder.run(*MAIN, "db", "copy", "--from", str(path), "--to", to, "-y")
    yield "downgrade", recorder.run(*MAIN, "db", "downgrade", "--revision", "009", "-y", *db)
    yield "rehearse", recorder.run(*MAIN, "db", "upgrade", "--dry-run", *db)
    yield "upgrade", recorder.run(*MAIN, "db", "upgrade", *db)
    yield "restore", recorder.run(*MAIN, "db", "restore", "--newest", "-y", *db)
    yield "upgrade again", recorder.run(*MAIN, "db", "upgrade", *db)
    yield "rotate", recorder.run(*MAIN, "keys", "rotate", *db, TOKEN_ENCRYPTION_KEY=_keys(path))
    first, *_ = Keyring(_keys(path).split(";")).fingerprints
    for command in ("introduce", "promote", "list", f"retire {first} --fernet"):
        name = [first] if command == "promote" else []
        keys = ("keys", *command.split(), *name, *db)
        yield command, recorder.run(*MAIN, *keys, TOKEN_ENCRYPTION_KEY=_keys(path))
    for command in ("doctor", "prune", "backups --verify", "audit verify", "log", "current"):
        db_command = ("db", *command.split(), *db)
        yield command, recorder.run(*MAIN, *db_command, TOKEN_ENCRYPTION_KEY=_keys(path))
    yield "lost", recorder.run("-c", STORE, str(path), "lost", TOKEN_ENCRYPTION_KEY=_keys(path))
    crashed = recorder.folder / "crashed.db"
    upgrade_database(crashed)
    run_program(sys.executable, "-c", CRASH, crashed, check=True)
    crashed.with_name("crashed.db-journal").chmod(0o600)
    yield "crashed", recorder.run(*MAIN, "db", "repair", "-y", "-d", str(crashed))


def _keys(path: Path) -> str:
    return f"{KEY};{path.with_name('tokens.db.key').read_text('ascii').strip()}"


def test_every_file_is_private_from_its_first_byte(recorder: Recorder) -> None:
    """Under umask 000 no other user can open any file of any command, at any moment."""
    kinds: set[str] = set()
    wrong: list[str] = []
    for what, created in _lives(recorder):
        kinds |= {_kind(one.path) for one in created}
        wrong += [f"{what}: {one}" for one in created if not one.is_private]
    assert wrong == []
    assert kinds >= SEEN


def test_every_database_of_a_fixture_is_private(recorder: Recorder) -> None:
    """A test can store a secret of its own in one."""
    (recorder.folder / "test_it.py").write_text(PLUGIN, "utf-8")
    options = ("-p", "no:cacheprovider", "-p", "no:xdist", "--basetemp", "tmp/runs", "test_it.py")
    created = recorder.run("-m", "pytest", *options)
    ours = [one for one in created if re.search(r"\.db|templates", one.path.name)]
    assert [one for one in ours if not one.is_private] == []
    names = {re.sub(r"\.[0-9a-f]{6}\.", ".RANDOM.", one.path.name) for one in ours}
    walking = {f".tokens-{number}-walking.db.RANDOM.partial" for number in (1, 2)}
    assert names >= {"templates.lock", "tokens.db", "tokens-1-at-009.db", *walking}


def test_a_file_that_is_made_as_usual_is_seen(recorder: Recorder) -> None:
    """Negative control: what open() and sqlite3 create under umask 000 is not private."""
    code = "import sqlite3; open('a', 'w'); sqlite3.connect('b').execute('CREATE TABLE t (x)')"
    created = {one.path.name: one for one in recorder.run("-c", code)}
    assert {"a", "b", "b-journal"} <= created.keys()
    assert not any(one.is_private for one in created.values())


@pytest.mark.parametrize("suffix", [*BESIDE[1:], ".key"])
@pytest.mark.parametrize("target", ["empty", "full", "missing"])
def test_no_link_in_place_of_a_file_is_followed(
    suffix: str, target: str, recorder: Recorder, tmp_path: Path
) -> None:
    """A link of this user, to a file that he may write, leaves that file as it was."""
    victim = tmp_path / "victim"
    if target != "missing":
        victim.write_bytes(b"" if target == "empty" else b"content")
        victim.chmod(0o644)
    link = recorder.folder / f"tokens.db{suffix}"
    link.symlink_to(victim)
    recorder.run("-c", ANY_END, str(recorder.folder / "tokens.db"))
    if target == "missing":
        assert not victim.exists()
    else:
        assert victim.read_bytes() == (b"" if target == "empty" else b"content")
        assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_no_link_in_place_of_a_temporary_file_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a user who guesses the random name gets nothing written through his link."""
    monkeypatch.setattr(os, "urandom", bytes)
    victim = tmp_path / "victim"
    (tmp_path / ".backup.000000.partial").symlink_to(victim)
    with pytest.raises(FileExistsError), private_file(tmp_path / "backup", tmp_path / "tokens.db"):
        pass
    assert not victim.exists()
