"""Paths, URLs and settings that no database can lie at, and those that only look so."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.places import Shelf, fingerprint, listing, rows
from tests.support.revisions import HEAD

#: Every command that uses a database, with what it needs beside `-d`.
COMMANDS = {
    "current": (),
    "check": (),
    "upgrade": (),
    "history": (),
    "downgrade": ("--yes",),
    "stamp": (HEAD,),
    "backup": (),
}


def _link(target: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "link.db"
        path.symlink_to(target)
        return path

    return make


def _folder(folder: Path) -> Path:
    path = folder / "folder.db"
    path.mkdir()
    return path


def _fifo(folder: Path) -> Path:
    path = folder / "fifo.db"
    os.mkfifo(path)
    return path


def _below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "tokens.db"


#: What makes the path of a test, and the code of the refusal.
IMPOSSIBLE: dict[str, Callable[[Path], str | Path]] = {
    "folder": _folder,
    "fifo": _fifo,
    "device": lambda _folder: "/dev/full",
    "dangling-link": _link("nowhere.db"),
    "loop": _link("link.db"),
    "below-a-file": _below_a_file,
    "255-bytes": lambda folder: folder / ("x" * 252 + ".db"),
    "256-bytes": lambda folder: folder / ("x" * 253 + ".db"),
    "5000-bytes": lambda folder: folder / ("x" * 5000),
    "empty": lambda _folder: "",
    "blank": lambda _folder: "  ",
    "memory": lambda _folder: ":memory:",
    "file-uri": lambda folder: f"file:{folder}/tokens.db?mode=rwc",
    "null-character": lambda folder: f"{folder}/tok\0ens.db",
    "url-with-host": lambda _folder: "sqlite://host/tokens.db",
    "memory-url": lambda _folder: "sqlite://",
    "url-with-parameters": lambda folder: f"sqlite:///{folder}/tokens.db?timeout=5",
}

#: Names that are a file's like any other.
ODD_NAMES = (
    "x?mode=memory.db",
    "100%.db",
    "%2e%2e.db",
    "a#b.db",
    "grüße 🔑.db",
    "with space.db",
    "-r.db",
    "new\nline.db",
    "\x1b[31mred.db",
    "file.db;rm -rf",
)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_an_impossible_path_is_refused(
    kind: str, name: str, tmp_path: Path, command: Command
) -> None:
    """Where no database can lie, every command says so at once, with a remedy, and exits 1."""
    path = str(IMPOSSIBLE[kind](tmp_path))
    before = listing(tmp_path)
    done = command("db", name, "-d", path, *COMMANDS[name])
    assert done.status == 1
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["error", "remedy"]
    assert "Traceback" not in done.err
    assert listing(tmp_path) == before
    document = json.loads(command("db", name, "-d", path, *COMMANDS[name], "--json").out)
    assert document["error"]["code"] == "bad-path"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_a_name(
    name: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name holds, the file of that name is used, and no terminal obeys it."""
    monkeypatch.chdir(tmp_path)
    assert command("db", "current", "-d", name).status == 0
    for arguments in (
        ["upgrade"],
        ["check"],
        ["history"],
        ["downgrade", "--yes"],
        ["upgrade"],
        ["stamp", HEAD],
        ["backup"],
    ):
        done = command("db", *arguments, "-d", name)
        assert (arguments, done.status) == (arguments, 0), done.err
        assert "\x1b" not in done.out + done.err
    document = json.loads(command("db", "current", "-d", name, "--json").out)
    assert (document["database"], document["state"]) == (name, "at-head")
    assert rows(tmp_path / name, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert all(entry.startswith(name) for entry in listing(tmp_path))


@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite+aiosqlite:///{}"])
def test_a_url_names_a_file(url: str, shelf: Shelf, database: Path, command: Command) -> None:
    """`-u` takes what SQLAlchemy takes for SQLite."""
    shelf.put("at-head", database)
    done = command("db", "current", "-u", url.format(database))
    assert (done.status, done.out, done.err) == (0, f"{HEAD} (head)\n", "")


def test_a_url_of_another_engine_is_refused_without_its_password(command: Command) -> None:
    """The refusal of a URL does not repeat what it holds."""
    done = command("db", "upgrade", "-u", "postgresql://me:s3cret@host/tokens")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "error: This version keeps tokens in SQLite and cannot use a postgresql database. "
        "[unsupported-database]\n"
        "remedy: Use a path (TOKEN_STORAGE_DB, -d) or a URL that begins with sqlite:///.\n"
    )


def test_a_named_database_needs_no_setting(
    shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -d a database in the environment that cannot be used is no obstacle."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://host/tokens")
    shelf.put("behind", database)
    done = command("db", "upgrade", "-d", str(database))
    assert (done.status, done.err) == (0, "")


def test_a_bad_timeout_is_refused_before_anything(
    shelf: Shelf, database: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock timeout that is no number stops a command before it has looked at the file."""
    monkeypatch.setenv("TOKEN_STORAGE_LOCK_TIMEOUT", "soon")
    before = fingerprint(shelf.put("behind", database))
    done = command("db", "upgrade", "-d", str(database), "--json")
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "bad-input")
    assert fingerprint(database) == before


@pytest.mark.parametrize("name", ["current", "check"])
def test_a_missing_folder_is_a_missing_database(
    name: str, tmp_path: Path, command: Command
) -> None:
    """A folder that can be made is no error, and a look does not make it."""
    path = tmp_path / "new" / "folder" / "tokens.db"
    done = command("db", name, "-d", str(path))
    assert (done.status, done.err) == ({"current": 0, "check": 3}[name], "")
    assert not path.parent.parent.exists()


def test_upgrade_makes_a_missing_folder(tmp_path: Path, command: Command) -> None:
    """`db upgrade` makes the folders of a new database, private to its user."""
    path = tmp_path / "new" / "folder" / "tokens.db"
    assert command("db", "upgrade", "-d", str(path)).status == 0
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600
