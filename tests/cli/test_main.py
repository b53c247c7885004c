"""The root of the command line: the server's options, help, wrong usage, unexpected errors."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import sys
from pathlib import Path
from types import ModuleType

import pytest

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.cli.db import current, group
from nextcloud_mcp_server.cli.keys.group import key_commands
from nextcloud_mcp_server.cli.output import is_abort, is_usage
from nextcloud_mcp_server.cli.root import KEY_SUMMARIES, SUMMARIES
from nextcloud_mcp_server.server import run
from nextcloud_mcp_server.settings.variables import SERVER_VARIABLES
from tests.cli.conftest import Command, Db
from tests.cli.places import Shelf, process
from tests.support.revisions import HEAD

LOG = ("info", "text", False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ("127.0.0.1", 8000, False, LOG)),
        ("run", ("127.0.0.1", 8000, False, LOG)),
        ("--port 9", ("127.0.0.1", 9, False, LOG)),
        ("--host ::1 --port 0", ("::1", 0, False, LOG)),
        ("run --host 0.0.0.0", ("0.0.0.0", 8000, False, LOG)),  # noqa: S104 - an argument
        ("--host ::1 --port 1 run --port 2", ("::1", 2, False, LOG)),
        ("--debug", ("127.0.0.1", 8000, True, LOG)),
        ("--debug run", ("127.0.0.1", 8000, True, LOG)),
        ("run --debug", ("127.0.0.1", 8000, True, LOG)),
        ("run --port 9 --debug --host ::1", ("::1", 9, True, LOG)),
        ("--log-format json", ("127.0.0.1", 8000, False, ("info", "json", False))),
        ("run --access-log", ("127.0.0.1", 8000, False, ("info", "text", True))),
        ("--access-log run --no-access-log", ("127.0.0.1", 8000, False, LOG)),
        ("--log-level error run", ("127.0.0.1", 8000, False, ("error", "text", False))),
    ],
)
def test_without_a_command_the_server_runs(
    arguments: str,
    expected: tuple[str, int, bool, object],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's options may be given before `run` and after it; the last one counts."""
    called = []

    def serve(*, host: str, port: int, debug: bool, log: object) -> int:
        called.append((host, port, debug, log))
        return 7

    monkeypatch.setattr(run, "serve", serve)
    assert command(*arguments.split()).status == 7
    assert called == [expected]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", ("::1", 9, ("warning", "json", True))),
        (
            "--host 127.0.0.1 --port 7 run --log-level debug --log-format text --no-access-log",
            ("127.0.0.1", 7, ("debug", "text", False)),
        ),
    ],
)
def test_the_environment_gives_what_no_option_gives(
    arguments: str,
    expected: tuple[str, int, object],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each server option has a variable, and an option wins over it, also over an invalid one."""
    called = []

    def serve(*, host: str, port: int, debug: bool, log: object) -> int:
        called.append((host, port, log))
        return 7

    monkeypatch.setattr(run, "serve", serve)
    given = ("::1", "9", "Warning", "json", "1")
    for name, value in zip(SERVER_VARIABLES[: len(given)], given, strict=True):
        monkeypatch.setenv(name, "nonsense" if arguments else value)
    assert command(*arguments.split()).status == 7
    assert called == [expected]


# The value of STATUS_TOKEN is secret.
@pytest.mark.parametrize("name", [n for n in SERVER_VARIABLES[1:] if n != "STATUS_TOKEN"])
def test_an_invalid_variable_of_the_server_is_refused(
    name: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line names the variable and its value, and nothing is started."""
    # The others are read only with it.
    monkeypatch.setenv("NEXTCLOUD_HOST", "https://cloud.example.com")
    monkeypatch.setenv(name, "nonsense")
    done = command()
    assert (done.status, done.out) == (1, "")
    first, remedy = done.err.splitlines()
    assert first.startswith(f"error: {name} is 'nonsense'")
    assert first.endswith("[bad-input]")
    assert remedy.startswith(("remedy: Set it to ", f"remedy: Set {name} to "))


@pytest.mark.parametrize("place", range(6))
def test_debug_stands_anywhere(place: int, command: Command, db: Db) -> None:
    """--debug is accepted before and after the group, the command and its options."""
    db.path.write_text("no database\n" * 100)
    arguments = ["db", "current", "-d", str(db.path), "--json"]
    arguments.insert(place, "--debug")
    done = command(*arguments)
    assert (done.status, json.loads(done.out)["error"]["code"]) == (1, "not-a-database")
    assert "Traceback (most recent call last):" in done.err


def test_debug_after_two_dashes_is_an_argument(command: Command) -> None:
    """What follows `--` is no option."""
    done = command("db", "migrate", "--", "--debug", "surplus")
    assert done.status == 2
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"],
        ["--port", "-1"],
        ["--port", "http"],
        ["--host", ""],
        ["run", "--host", " "],
        ["--port", "1", "db", "current"],
        ["--log-format", "xml"],
        ["--log-level", "loud"],
        ["--access-log", "db", "current"],
        ["nonsense"],
        ["db"],
        ["db", "nonsense"],
        ["db", "current", "surplus"],
        ["db", "current", "-d", "a", "-u", "sqlite:///b"],
        ["db", "current", "-u", "a/plain/path.db"],
        ["db", "upgrade", "-r", ""],
        ["db", "stamp"],
        ["db", "migrate"],
        ["db", "migrate", "  "],
        ["db", "migrate", "add a table", "--renumber", "102"],
        ["db", "show", "001", "--dialect", "mysql"],
        ["db", "lint", "--overwrite", "101"],
        ["db", "upgrade", "--sql", "--dry-run"],
        ["db", "upgrade", "--nonsense"],
        ["db", "lint", "-d", "t.db"],
        ["db", "migrate", "add a table", "-d", "t.db"],
        ["db", "show", "001", "-u", "sqlite:///t.db"],
    ],
)
def test_wrong_usage_exits_two(arguments: list[str], command: Command) -> None:
    """Wrong usage is printed on stderr, or as JSON with --json; the exit status is 2."""
    done = command(*arguments)
    assert (done.status, done.out) == (2, "")
    if arguments == ["db"]:
        assert done.err.startswith("Usage: nextcloud-mcp-server db")
    else:
        error, remedy = done.err.splitlines()
        assert re.fullmatch(r"error: .+ \[bad-input\]", error)
        assert remedy.startswith("remedy: See what it takes: nextcloud-mcp-server")
        assert command(*shlex.split(remedy.rpartition(": ")[2])[1:]).status == 0
    assert "Traceback" not in done.err
    if arguments[0] == "db" and len(arguments) > 1:
        done = command(*arguments, "--json")
        assert (done.status, done.err) == (2, "")
        error = json.loads(done.out)["error"]
        assert (error["code"], error.keys()) == ("bad-input", {"code", "message", "remedy"})


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("db upgarde", "'upgrade'"),
        ("db Current", "'current'"),
        ("rnu", "'run'"),
        ("upgrade", "'db upgrade'"),
        ("bd current", "'db'"),
        ("db upgrade --dryrun", "'--dry-run'"),
        ("db current --jsno", "'--json'"),
        ("db backups --verfy", "'--verify'"),
        ("--prot 9", "'--port'"),
    ],
)
def test_a_mistyped_command_or_option_is_answered_with_the_correct_one(
    arguments: str, meant: str, command: Command
) -> None:
    """The error line asks whether another command or option was meant."""
    done = command(*arguments.split())
    assert done.status == 2
    assert meant in done.err.splitlines()[0].partition("Did you mean ")[2]


@pytest.mark.parametrize(
    "arguments", ["--debug --log-level error", "run --log-level error --debug"]
)
def test_debug_wins_over_the_log_level_and_the_help_says_it(
    arguments: str, command: Command, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All log lines are printed, whichever of the two stands first."""
    used: list[str] = []
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(database))
    monkeypatch.setattr(run, "_serve", lambda **given: used.append(given["log"].level))
    assert command(*arguments.split()).status == 0
    assert used == ["debug"]
    help_text = " ".join(command("--help").out.split())
    assert "all log lines, whatever --log-level is." in help_text


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_every_command_fits_a_terminal(flag: str, command: Command) -> None:
    """No summary of a command is cut off, and no line is longer than 80 characters."""
    db = (["db", name] for name in group.db_commands.commands)
    keys = (["keys", name] for name in key_commands.commands)
    for arguments in ([], ["run"], ["stdio"], ["db"], *db, ["keys"], *keys):
        done = command(*arguments, flag)
        assert (done.status, done.err) == (0, "")
        assert "..." not in done.out.partition("Commands:")[2]
        assert max(map(len, done.out.splitlines())) <= 80


def test_help_says_what_a_command_does_without_docstrings(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -OO` removes the docstrings; the first line of each stays."""
    monkeypatch.setattr(group.db_commands.commands["upgrade"], "help", None)
    assert SUMMARIES["upgrade"] in command("db", "upgrade", "--help").out


#: Prints the help of every command.
EVERY_HELP = """
import nextcloud_mcp_server.cli.root as root
from nextcloud_mcp_server.cli.main import main
names = [["db", name] for name in root.SUMMARIES] + [["keys", name] for name in root.KEY_SUMMARIES]
for arguments in ([], ["run"], ["stdio"], ["db"], ["keys"], *names):
    main([*arguments, "--help"])
"""


def test_the_help_is_complete_without_docstrings(tmp_path: Path) -> None:
    """With `python -OO` each command has the same help, read from its source text."""
    usual = process(cwd=tmp_path, code=EVERY_HELP)
    optimized = process(cwd=tmp_path, code=EVERY_HELP, environ={"PYTHONOPTIMIZE": "2"})
    assert usual.out.count("Usage:") == len(SUMMARIES) + len(KEY_SUMMARIES) + 5
    assert optimized.out == usual.out
    assert "lock, inspect, back up" in optimized.out


def test_the_version(command: Command) -> None:
    """--version prints the name and the version."""
    done = command("--version")
    assert (done.status, done.err) == (0, "")
    assert done.out == f"nextcloud-mcp-server {__version__}\n"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An inspection that raises an unexpected error with secrets in its message."""

    def inspect(_database: Database) -> None:
        raise sqlite3.ProgrammingError(
            "cannot use postgresql://me:s3cret@host/x with gAAAAABm0123456789012345678901\n[SQL: x]"
        )

    monkeypatch.setattr(current, "inspect", inspect)


@pytest.mark.usefixtures("broken")
def test_an_unexpected_error_is_one_line(command: Command) -> None:
    """It has the type and no secrets; with --debug the traceback is printed above it."""
    done = command("db", "current", "-d", "t.db")
    assert (done.status, done.out) == (1, "")
    assert done.err == (
        "unexpected error: ProgrammingError: cannot use postgresql://***host/x with ***\n"
        "remedy: run it again as 'nextcloud-mcp-server --debug ...', and report what it prints\n"
    )
    done = command("--debug", "db", "current", "-d", "t.db", "--json")
    assert json.loads(done.out)["error"]["code"] == "unexpected"
    assert done.err.startswith("Traceback (most recent call last):")


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "json"])
@pytest.mark.parametrize("name", ["current", "backup"])
def test_with_debug_a_remedy_is_printed_once(
    name: str, options: tuple[str, ...], db: Db, command: Command
) -> None:
    """The traceback ends with the code; the remedy is printed only below it."""
    db.path.write_text("no database\n" * 100)
    plain = db(name, *options)
    done = command("--debug", "db", name, "-d", str(db.path), *options)
    assert (done.status, done.out) == (1, plain.out)
    assert done.err.startswith("Traceback (most recent call last):\n")
    assert done.err.endswith(f"\n[not-a-database]\n{plain.err}")
    assert (done.out + done.err).count("Point TOKEN_STORAGE_DB or -d at") == 1


@pytest.mark.parametrize("variable", ["TOKEN_STORAGE_DB", "DATABASE_URL"])
def test_an_empty_variable_is_a_warning(
    variable: str, tmp_path: Path, shelf: Shelf, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as unset: a warning names it and the database that is used instead."""
    monkeypatch.setenv(variable, "")
    usual = tmp_path / "tokens.db"
    monkeypatch.setattr("nextcloud_mcp_server.settings.store.DEFAULT_DATABASE", usual)
    shelf.put("at-head", usual)
    warning = f"warning: {variable} is empty and counts as unset, so {usual} is used. "
    for name in ("current", "doctor"):
        done = command("db", name)
        assert done.err == f"{warning}Give it a value, or unset it.\n"
    assert f"configuration: {variable} is empty" in done.out
    assert command("db", "current", "-d", str(usual)).err == ""


def test_the_fallback_is_printed(
    tmp_path: Path, shelf: Shelf, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the default path cannot be used, a warning names both paths."""
    data = tmp_path / "home"
    taken = tmp_path / "file"
    taken.touch()
    usual = taken / "data" / "tokens.db"
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    monkeypatch.setattr("nextcloud_mcp_server.settings.store.DEFAULT_DATABASE", usual)
    used = data / "nextcloud-mcp-server" / "tokens.db"
    used.parent.mkdir(parents=True)
    shelf.put("at-head", used)
    done = command("db", "current")
    assert done.out == f"database: {used} (the default)\n{HEAD} (at-head)\n"
    assert done.err == (
        f"warning: {usual} cannot be used here, so {used} is used instead. "
        "Set TOKEN_STORAGE_DB or give -d to choose another.\n"
    )


def test_another_module_named_click_is_no_second_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A click.py in the working directory may be in its place while an error is printed."""
    monkeypatch.setitem(sys.modules, "click", ModuleType("click"))
    assert not is_abort(AttributeError())
    assert not is_usage(AttributeError())
    assert is_abort(KeyboardInterrupt())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("up", "upgrade"), ("down", "downgrade"), ("revision", "migrate"), ("heads", "current")],
)
def test_the_words_of_alembic_are_known(typed: str, meant: str, command: Command) -> None:
    """An unknown command is answered with the one that does it here."""
    assert f"Did you mean '{meant}'?" in command("db", typed).err


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("Head", "Did you mean head?"),
        ("\uff10\uff10\uff19", "Did you mean 009?"),
        ("\u22121", "Did you mean -1?"),
        ("x.db", "Name a database with -d: -d x.db"),
    ],
    ids=ascii,
)
def test_what_is_no_revision_has_a_hint(target: str, line: str, db: Db) -> None:
    """The error says what was probably meant, or that a database has an option."""
    db.put("at-head")
    assert line in db("upgrade", target).err
