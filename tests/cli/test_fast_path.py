"""The few words that are read without click mean what click takes them for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextcloud_mcp_server.cli import fast_path
from nextcloud_mcp_server.cli.database import Named
from nextcloud_mcp_server.cli.db import current, group
from nextcloud_mcp_server.cli.options import database_options
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.cli.root import SUMMARIES, DatabaseCommands, cli
from tests.cli.places import Shelf, environment

WORDS = [
    *("db", "current", "check", "upgrade", "run", "--json", "--js", "--help", "-h", "--debug"),
    *("-d", "--database-path", "--database", "-u", "--database-url", "-x", "--", "-", "", " "),
    *("a.db", "a b.db", "ü.db", "-da.db", "-d=a.db", "--database-path=a.db", "sqlite:///a.db"),
]


def by_click(words: Sequence[str]) -> object:
    """The command and the database that click understands; None where it refuses."""
    understood: list[object] = []

    def look(name: str) -> None:
        def found(output: Output, named: Named) -> int:
            understood.append((name, named.text, output.as_json))
            return 0

        patch.setattr(current, name, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "db_commands", click.Group("db"))
        for name in ("current", "check"):
            look(name)
            group.db_commands.command(name)(database_options(getattr(current, name)))
        try:
            cli.main(list(words), standalone_mode=False, obj=Output(as_json="--json" in words))
        except (click.ClickException, SystemExit, ImportError):
            return None
    return understood[0] if understood else None


def by_hand(words: Sequence[str]) -> object:
    """The command and the database that were read without click; None where click has to."""
    understood: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("current", "check"):
            patch.setattr(
                current,
                name,
                lambda output, named, name=name: understood.append(
                    (name, named.text, output.as_json)
                ),
            )
        look = fast_path.asked(words)
        if look is None:
            return None
        look(Output(as_json="--json" in words))
    return understood[0]


@given(st.lists(st.sampled_from(WORDS), max_size=6).map(lambda words: ["db", *words]))
def test_what_is_read_by_hand_is_what_click_reads(words: list[str]) -> None:
    """Whatever is understood without click, click understands in the same way."""
    found = by_hand(words)
    if found is not None:
        assert found == by_click(words)


@pytest.mark.parametrize("rest", ["", "--json", "-d a.db", "--json --database-path a.db"])
@pytest.mark.parametrize("name", ["current", "check"])
def test_the_usual_words_need_no_click(name: str, rest: str) -> None:
    """The examples of the documentation are read by hand, and click agrees."""
    words = ["db", name, *rest.split()]
    assert by_hand(words) is not None
    assert by_hand(words) == by_click(words)


def test_the_summaries_are_those_of_the_commands() -> None:
    """`db --help` lists every command in the words of its docstring."""
    found = {n: c.get_short_help_str(1000) for n, c in group.db_commands.commands.items()}
    assert found == SUMMARIES
    context = click.Context(DatabaseCommands())
    assert context.command.get_help(context).count("\n  ") > len(SUMMARIES)


FORBIDDEN = (
    "asyncio",
    "click",
    "dataclasses",
    "filelock",
    "inspect",
    "json.tool",
    "logging",
    "sqlalchemy",
    "urllib.request",
)


def test_a_look_needs_no_click(shelf: Shelf, tmp_path: Path) -> None:
    """`db current` on a database at head imports nothing that takes long to import."""
    shelf.put("at-head", tmp_path / "t.db")
    program = (
        "import sys; from nextcloud_mcp_server.cli.main import main; status = main(); "
        f"print(status, *(n for n in {FORBIDDEN!r} if n in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "db", "current", "-d", "t.db"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.split() == ["0"]
