"""Completion in shells, as docs/reference/commands.md describes it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import click
import pytest

from nextcloud_mcp_server.cli.options import complete_revisions
from nextcloud_mcp_server.cli.root import cli
from nextcloud_mcp_server.errors import TokenStorageError
from tests.support.child import run_program

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
DOCUMENTED = dict(
    re.findall(r"^\| (bash|zsh|fish) \| [^|]+ \| `(.+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
)
SHELLS = ["bash", "zsh", "fish"]

#: Lines that are completed, and what one of the answers is.
LINES = [
    ("d", "db"),
    ("db up", "upgrade"),
    ("db upgrade --d", "--dry-run"),
    ("db copy --f", "--from"),
    ("db current --j", "--json"),
    ("db show 001 --dialect p", "postgresql"),
    ("db stamp 00", "005"),
    ("db upgrade 00", "005"),
    ("db downgrade 00", "005"),
    ("db show 00", "005"),
    ("db upgrade -r h", "head"),
    ("db downgrade --revision b", "base"),
    ("db lint --release --overwrite 00", "005"),
]


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which the program is found, as after an installation."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": "/nonexistent", **more}


def answers(shell: str, line: str, cwd: Path) -> str:
    """Return what the program answers to the script of ``shell``."""
    words = f"nextcloud-mcp-server {line}"
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    if shell == "fish":
        variables["COMP_CWORD"] = words.rsplit(maxsplit=1)[-1]
    complete = {"_NEXTCLOUD_MCP_SERVER_COMPLETE": f"{shell}_complete"}
    environ = environment(**variables, **complete)
    return run_program("nextcloud-mcp-server", env=environ, cwd=cwd, check=True).stdout


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "answer"), LINES)
def test_commands_and_options_are_completed(
    shell: str, line: str, answer: str, tmp_path: Path
) -> None:
    """Each shell is answered, and no file is made."""
    assert answer in answers(shell, line, tmp_path)
    assert not list(tmp_path.iterdir())


def test_completion_offers_only_what_the_command_takes(tmp_path: Path) -> None:
    """`stamp` takes head and base, `upgrade` head, `downgrade` base, `show` head."""
    taken = {
        "stamp": {"head", "base"},
        "upgrade": {"head"},
        "downgrade": {"base"},
        "show": {"head"},
    }
    for name, names in taken.items():
        for prefix in "hb":
            offered = answers("fish", f"db {name} {prefix}", tmp_path)
            assert {word for word in ("head", "base") if word in offered} == {
                word for word in names if word.startswith(prefix)
            }


def test_without_migrations_no_revision_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixed names are offered, and no error is printed into the line that a user types."""

    def fail() -> None:
        raise TokenStorageError("gone", code="no-migrations", remedy="install it")

    monkeypatch.setattr("nextcloud_mcp_server.schema.history.load_history", fail)
    context = click.Context(cli)
    assert complete_revisions("head")(context, cli.params[0], "") == ["head"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_path_is_completed_by_the_shell(shell: str, tmp_path: Path) -> None:
    """After -d, and for a backup, the shell is told to complete names of files."""
    for line in ("db current -d tok", "db restore tok", "db migrate --renumber 1"):
        assert answers(shell, line, tmp_path).startswith("file")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_documented_line_is_accepted_by_the_shell(shell: str) -> None:
    """The line runs, and registers a completion for the program."""
    line = DOCUMENTED[shell].replace("\\|", "|")
    if shutil.which(shell) is None:
        # What the line reads is at least there.
        line = re.sub(r'^eval "\$\((.*)\)"$', r"\1", line).removesuffix(" | source")
        done = run_program("bash", "-c", line, env=environment(), check=True)
        assert f"_NEXTCLOUD_MCP_SERVER_COMPLETE={shell}_complete" in done.stdout
        return
    listed = {
        "bash": "complete -p nextcloud-mcp-server",
        "zsh": "echo $_comps[nextcloud-mcp-server]",
        "fish": "complete -c nextcloud-mcp-server",
    }[shell]
    setup = "autoload -U compinit; compinit -u -D\n" if shell == "zsh" else ""
    done = run_program(shell, "-c", f"{setup}{line}\n{listed}", env=environment(), check=True)
    assert "_nextcloud_mcp_server_completion" in done.stdout


def test_bash_completes_a_line() -> None:
    """bash itself gets the command that begins with what was typed."""
    script = f"""
        {DOCUMENTED["bash"]}
        COMP_WORDS=(nextcloud-mcp-server db upg) COMP_CWORD=2
        _nextcloud_mcp_server_completion nextcloud-mcp-server
        echo "${{COMPREPLY[@]}}"
    """
    done = run_program("bash", "-c", script, env=environment(), check=True)
    assert (done.stdout, done.stderr) == ("upgrade\n", "")
