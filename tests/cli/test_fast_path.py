"""`db current` and `db check` are parsed without click in the same way as with click."""

from __future__ import annotations

from collections.abc import Sequence

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.cli import fast_path
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.db import current, group
from nextcloud_mcp_server.cli.keys.group import key_commands
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.cli.root import KEY_SUMMARIES, SUMMARIES, cli

ARGUMENTS = [
    *("db", "current", "check", "upgrade", "run", "--json", "--js", "--help", "-h", "--debug"),
    *("-d", "--database-path", "--database", "-u", "--database-url", "-x", "--", "-", "", " "),
    *("a.db", "a b.db", "ü.db", "-da.db", "-d=a.db", "--database-path=a.db", "sqlite:///a.db"),
]


def with_click(arguments: Sequence[str]) -> object:
    """Return the command and the database that click parses; None if it fails."""
    parsed: list[object] = []

    def replace(name: str) -> None:
        def run(output: Output, option: DatabaseOption) -> int:
            parsed.append((name, option.value, output.as_json))
            return 0

        patch.setattr(current, name, run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "db_commands", click.Group("db"))
        for name in ("current", "check"):
            replace(name)
            group.db_commands.command(name)(database_options(getattr(current, name)))
        try:
            cli.main(
                list(arguments), standalone_mode=False, obj=Output(as_json="--json" in arguments)
            )
        except (click.ClickException, SystemExit, ImportError):
            return None
    return parsed[0] if parsed else None


def without_click(arguments: Sequence[str]) -> object:
    """Return the command and the database that are parsed without click, if they are."""
    parsed: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("current", "check"):
            patch.setattr(
                current,
                name,
                lambda output, option, name=name: parsed.append(
                    (name, option.value, output.as_json)
                ),
            )
        command = fast_path.parse(arguments)
        if command is None:
            return None
        command(Output(as_json="--json" in arguments))
    return parsed[0]


@given(st.sampled_from(["current", "check"]), st.lists(st.sampled_from(ARGUMENTS), max_size=5))
def test_both_ways_parse_the_same(name: str, rest: list[str]) -> None:
    """Whatever is parsed without click, click parses in the same way."""
    arguments = ["db", name, *rest]
    parsed = without_click(arguments)
    if parsed is not None:
        assert parsed == with_click(arguments)


@pytest.mark.parametrize("rest", ["", "--json", "-d a.db", "--json --database-path a.db"])
@pytest.mark.parametrize("name", ["current", "check"])
def test_the_documented_spellings_need_no_click(name: str, rest: str) -> None:
    """The examples of the documentation are parsed without click, and in the same way with it."""
    arguments = ["db", name, *rest.split()]
    assert without_click(arguments) is not None
    assert without_click(arguments) == with_click(arguments)


def test_the_summaries_are_those_of_the_commands() -> None:
    """`db --help` lists every command with the first line of its docstring."""
    summaries = {n: c.get_short_help_str(1000) for n, c in group.db_commands.commands.items()}
    assert summaries == SUMMARIES
    keys = {n: c.get_short_help_str(1000) for n, c in key_commands.commands.items()}
    assert keys == KEY_SUMMARIES
    # click keeps the help option of the first context; the program's has -h too.
    context = click.Context(cli.commands["db"], help_option_names=["-h", "--help"])
    assert context.command.get_help(context).count("\n  ") > len(SUMMARIES)
