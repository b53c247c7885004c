"""Paths, URLs and settings that cannot be used, and odd ones that can."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.places import Shelf, listing, rows
from tests.support.revisions import HEAD

#: The commands that use a database, with their other arguments.
COMMANDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("current", "check", "upgrade", "history", "backup"), ()),
    "downgrade": ("--yes",),
    "stamp": (HEAD,),
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


#: What is not the path of a file, whatever is on the disk.
MALFORMED: dict[str, Callable[[Path], str | Path]] = {
    "empty": lambda _folder: "",
    "blank": lambda _folder: "  ",
    "memory": lambda _folder: ":memory:",
    "file-uri": lambda folder: f"file:{folder}/tokens.db?mode=rwc",
    "null-character": lambda folder: f"{folder}/tok\0ens.db",
    "url-with-host": lambda _folder: "sqlite://host/tokens.db",
    "memory-url": lambda _folder: "sqlite://",
    "url-with-parameters": lambda folder: f"sqlite:///{folder}/tokens.db?timeout=5",
}

#: How to make a path that no database can have.
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
    **MALFORMED,
}

#: Odd names of usable files.
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
    """Every command prints an error and a remedy and creates nothing; exits 2 if it is no path."""
    path = str(IMPOSSIBLE[kind](tmp_path))
    before = listing(tmp_path)
    done = command("db", name, "-d", path, *COMMANDS[name])
    assert done.status == (2 if kind in MALFORMED else 1)
    assert [line.partition(":")[0] for line in done.err.splitlines()] == ["error", "remedy"]
    assert " [bad-path]\n" in done.err
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_is_a_name(
    name: str, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of exactly that name is used, and control characters are escaped."""
    monkeypatch.chdir(tmp_path)
    assert command("db", "current", "-d", name).status == 0
    for arguments in f"upgrade,check,history,downgrade -y,upgrade,stamp {HEAD},backup".split(","):
        done = command("db", *arguments.split(), "-d", name)
        assert (arguments, done.status) == (arguments, 0), done.err
        assert "\x1b" not in done.out + done.err
    document = json.loads(command("db", "current", "-d", name, "--json").out)
    assert (document["database"], document["state"]) == (str(tmp_path / name), "at-head")
    assert rows(tmp_path / name, "SELECT version_num FROM alembic_version") == [(HEAD,)]
    assert all(entry.startswith(name) for entry in listing(tmp_path))


@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite+aiosqlite:///{}"])
def test_a_url_names_a_file(url: str, shelf: Shelf, database: Path, command: Command) -> None:
    """`-u` takes the URLs of SQLAlchemy for SQLite."""
    shelf.put("at-head", database)
    done = command("db", "current", "-u", url.format(database))
    assert (done.status, done.out, done.err) == (0, f"{HEAD} (at-head)\n", "")


def test_only_upgrade_creates_a_missing_folder(tmp_path: Path, command: Command) -> None:
    """`db upgrade` creates the folders of a new database, private to its user; `db check` none."""
    path = tmp_path / "new" / "folder" / "tokens.db"
    for name, status in (("current", 0), ("check", 3)):
        done = command("db", name, "-d", str(path))
        assert (done.status, done.err) == (status, "")
        assert listing(tmp_path) == []
    assert command("db", "upgrade", "-d", str(path)).status == 0
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("names", "value", "code"),
    [
        ("-d TOKEN_STORAGE_DB", ":memory:", "bad-path"),
        ("-d TOKEN_STORAGE_DB", "~nobody-at-all/t.db", "bad-path"),
        ("-u DATABASE_URL", "sqlite://a.db", "bad-path"),
        ("-u DATABASE_URL", "mysql://host/x", "unsupported-database"),
    ],
)
def test_a_malformed_value_exits_two_if_it_was_typed(
    names: str, value: str, code: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line a malformed value is wrong usage, in the environment an error."""
    option, variable = names.split()
    for line in (
        ("db", "current"),
        ("db", "upgrade", "--sql"),
        ("db", "history"),
        ("keys", "list"),
    ):
        done = command(*line, option, value)
        assert (done.status, f"[{code}]\n" in done.err) == (2, True)
    monkeypatch.setenv(variable, value)
    done = command("db", "current")
    assert (done.status, f"[{code}]\n" in done.err) == (1, True)
