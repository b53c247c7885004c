"""Fixtures of the tests of the command line."""

from __future__ import annotations

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from nextcloud_mcp_server.cli.main import main
from nextcloud_mcp_server.settings import variables
from tests.cli.places import Done, Shelf

#: Runs a command in this process.
Command = Callable[..., Done]


class Db:
    """The database of a test, and the ``db`` commands on it."""

    def __init__(self, path: Path, shelf: Shelf, command: Command) -> None:
        self.path = path
        self._shelf, self._command = shelf, command

    def put(self, state: str) -> Path:
        """Put a database in ``state`` there."""
        return self._shelf.put(state, self.path)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run a ``db`` command on it."""
        return self._command("db", *arguments, "-d", str(self.path), stdin=stdin)

    def refused(self, *arguments: str) -> str:
        """Run a ``db`` command that fails, and return the code of its error."""
        done = self(*arguments, "--json")
        assert done.status == 1
        return str(json.loads(done.out)["error"]["code"])


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*variables.ALL, "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The path of the test's database."""
    return tmp_path / "tokens.db"


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Command]:
    """A function that runs a command in this process, for at most a minute."""

    def run(*arguments: str, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        status = main(arguments)
        out, err = capsys.readouterr()
        return Done(status, out, err)

    def too_long(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("the command hangs")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    yield run
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def db(database: Path, shelf: Shelf, command: Command) -> Db:
    """The database of the test, and the `db` commands on it."""
    return Db(database, shelf, command)
