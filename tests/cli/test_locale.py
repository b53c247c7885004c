"""Names stay readable if the locale is that of the C language, as in cron and in containers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.places import Done, Shelf, process

C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def path(tmp_path: Path, shelf: Shelf) -> Path:
    """A database behind head, in a folder and with a name outside of ASCII."""
    path = tmp_path / "dätä" / "tökens-日本.db"
    path.parent.mkdir()
    return shelf.put("behind", path)


def run(path: Path, *arguments: str) -> Done:
    """Run a command on the database in the C locale."""
    return process("db", *arguments, "-d", str(path), cwd=path.parent, environ=C)


def test_names_are_readable_in_the_c_locale(path: Path) -> None:
    """Lines, errors, remedies and the journal have the path as it is named."""
    for arguments in (
        *(["check"], ["doctor"], ["upgrade", "--dry-run"], ["upgrade"], ["backup"], ["backups"]),
        *(["log"], ["downgrade"], ["downgrade", "--yes"], ["stamp", "002", "--yes"]),
        *(["restore", "--newest", "--yes"], ["doctor", "--full"]),
    ):
        done = run(path, *arguments)
        assert "udc" not in done.out + done.err
        assert "unexpected" not in done.err, done.err
        if arguments[0] not in {"check", "log"}:
            assert "tökens-日本.db" in done.out + done.err, arguments


@pytest.mark.parametrize("command", ["current", "check", "upgrade", "backup", "backups", "doctor"])
def test_json_has_the_names_too(command: str, path: Path) -> None:
    """The document is that of any other locale."""
    run(path, "backup")
    done = run(path, command, "--json")
    assert json.loads(done.out)["database"] == str(path)
    assert "udc" not in done.out + done.err


def test_bytes_that_are_no_text_stay_escaped(tmp_path: Path) -> None:
    """A name that is not UTF-8 is printed with its bytes, in every locale."""
    name = b"t\xff.db".decode("utf-8", "surrogateescape")
    for environ in (C, {}):
        done = process("db", "upgrade", "-d", name, cwd=tmp_path, environ=environ)
        assert r"t\udcff.db" in done.out
