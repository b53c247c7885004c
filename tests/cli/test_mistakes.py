"""Mistyped command lines: what the error and its remedy say was probably meant."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import click
import pytest

from nextcloud_mcp_server.cli.db.group import db_commands
from nextcloud_mcp_server.cli.keys.group import key_commands
from nextcloud_mcp_server.cli.root import cli
from tests.cli.conftest import Command

PROGRAM = "nextcloud-mcp-server"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("start", "'run'"),
        ("serve", "'run'"),
        ("Server", "'run'"),
        ("version", "'--version'"),
        ("help", "'--help'"),
        ("db help", "'--help'"),
        ("keys help", "'--help'"),
        ("lst", "'keys list'"),
        ("bakup", "'db backup' or 'db backups'"),
        ("db current --jsno", "'--json'"),
    ],
)
def test_the_answer_is_what_was_meant_and_nothing_else(
    arguments: str, meant: str, command: Command
) -> None:
    """Words of other programs are answered with their name here, with at most two names."""
    error = command(*arguments.split()).err.splitlines()[0]
    assert error.partition("Did you mean ")[2] == f"{meant}? [bad-input]"


@pytest.mark.parametrize(
    "arguments", ["db start", "db abc", "stop", "reset", "keys start", "--jason", "db log -x"]
)
def test_a_name_that_is_not_close_is_not_suggested(arguments: str, command: Command) -> None:
    """A command that only shares some letters is not named: it might change the database."""
    done = command(*arguments.split())
    assert done.status == 2
    assert "Did you mean" not in done.err


def _options_with_a_value() -> Iterator[tuple[str, ...]]:
    named: list[tuple[tuple[str, ...], click.Command]] = [
        ((), cli),
        (("run",), cli.commands["run"]),
    ]
    for group, commands in (("db", db_commands), ("keys", key_commands)):
        named += [((group, name), found) for name, found in commands.commands.items()]
    for path, found in named:
        for parameter in found.params:
            if isinstance(parameter, click.Option) and not parameter.is_flag:
                yield from ((*path, option) for option in parameter.opts)


@pytest.mark.parametrize("arguments", list(_options_with_a_value()), ids=" ".join)
def test_an_option_without_its_value_is_answered_with_the_help_of_its_command(
    arguments: tuple[str, ...], command: Command
) -> None:
    """The remedy names the help that lists the option."""
    *path, option = arguments
    remedy = command(*arguments).err.splitlines()[1]
    assert remedy == f"remedy: See what it takes: {' '.join([PROGRAM, *path])} --help"
    assert option in command(*path, "--help").out


@pytest.mark.parametrize(
    ("arguments", "correct"),
    [
        ("db -d a.db current", "db current -d a.db"),
        ("-d a.db db current", "db current -d a.db"),
        ("-d a.db current", "db current -d a.db"),
        ("-d db db current", "db current -d db"),
        ("--database-path=a.db db current", "db current --database-path=a.db"),
        ("-da.db db current", "db current -da.db"),
        ("-u sqlite:///a.db db check", "db check -u sqlite:///a.db"),
        ("keys -d a.db list", "keys list -d a.db"),
        ("db --dry-run -d a.db upgrade 005", "db upgrade 005 --dry-run -d a.db"),
        ("db -d a.db downgrade -- -1", "db downgrade -d a.db -- -1"),
        ("db -d a.db", "db current -d a.db"),
        ("keys -d a.db", "keys list -d a.db"),
        ("--json db current", "db current --json"),
        ("db --json lint", "db lint --json"),
        ("--json", "db current --json"),
    ],
)
def test_an_option_before_the_command_is_answered_with_the_corrected_line(
    arguments: str, correct: str, command: Command
) -> None:
    """The error says that the option stands after the command, and the remedy can be typed."""
    done = command(*arguments.split())
    assert done.status == 2
    if "--json" in arguments:
        error = json.loads(done.out)["error"]
        message, remedy = error["message"], f"remedy: {error['remedy']}"
    else:
        message, remedy = done.err.splitlines()
    assert "stands after the command." in message
    assert remedy.partition(f": {PROGRAM} ")[2] == correct
    assert "Did you mean" not in message


@pytest.mark.parametrize(
    "arguments", ["-d a.db", "-d a.db run", "-u sqlite:///a.db", "-u a.db", "run -d a.db"]
)
def test_a_server_that_is_given_a_database_is_answered_with_its_variable(
    arguments: str, command: Command
) -> None:
    """A server has no -d: the remedy has the variable, and a command that takes the option."""
    error, remedy = command(*arguments.split()).err.splitlines()
    name = "DATABASE_URL" if "-u" in arguments else "TOKEN_STORAGE_DB"
    assert f"a server takes its database from {name}. [bad-input]" in error
    serve, _, inspect = remedy.removeprefix("remedy: To serve it: ").partition(". To inspect it: ")
    assert serve.startswith(f"{name}=")
    assert "DATABASE_URL=a.db" not in serve
    assert shlex.split(inspect)[:4] == [PROGRAM, "db", "current", "-u" if "URL" in name else "-d"]


@pytest.mark.parametrize(
    ("arguments", "helped"),
    [
        ("-d a.db db lint", "db lint"),
        ("--json run", "run"),
        ("db -d a.db nonsense", "db"),
        ("db --nonsense upgrade", "db"),
        ("--json version", ""),
    ],
)
def test_an_option_that_the_command_does_not_have_is_not_moved_there(
    arguments: str, helped: str, command: Command
) -> None:
    """The remedy is the help of the command, as nothing that can be typed is known."""
    done = command(*arguments.split())
    lines = done.out or done.err
    assert done.status == 2
    assert f"See what it takes: {' '.join([PROGRAM, *helped.split()])} --help" in lines


@pytest.mark.parametrize("value", ["abc", "", "1.5", "-1", "9" * 5000])
@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        ("--port", "0 to 65535"),
        ("run --port", "0 to 65535"),
        ("db log -n", "1 to 2147483648"),
        ("db backups --keep", "1 up"),
    ],
)
def test_a_number_that_is_none_or_out_of_range_is_answered_with_the_range(
    arguments: str, allowed: str, value: str, command: Command
) -> None:
    """The error says which numbers are allowed, in words and not in the terms of the parser."""
    if value.startswith("9") and allowed == "1 up":
        value = "9" * 4999 + "x"
    done = command(*arguments.split(), value)
    assert done.status == 2
    expected = f": {value[:20]!r} is not a whole number from {allowed}. [bad-input]"
    assert done.err.splitlines()[0].endswith(expected)
