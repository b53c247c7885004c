"""Run the shell blocks of a document as scripts in a sandbox.

Five things are changed: example paths become paths of the sandbox, the server is stopped as
soon as it listens, an interactive ``sqlite3`` reads its lines from the block, ``uv`` is not
installed again, and nox does not start nox.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCE: Final = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
_SERVER: Final = re.compile(r"^(?P<command>(uv run )?nextcloud-mcp-server)$", re.MULTILINE)
_DIALOGUE: Final = re.compile(r"^(?P<command>sqlite3 \S+)\n(?P<lines>(?:> .*\n)+)", re.MULTILINE)
_NOX: Final = re.compile(r"^.*\buvx nox\b.*$", re.MULTILINE)

#: Starts the server, waits until it listens, stops it, and returns its exit status.
_SERVE: Final = """\
serve_briefly() {
    local output="$PLACE/serving" status=0
    "$@" --port 0 >"$output" 2>&1 &
    local server=$!
    for _ in $(seq 600); do
        grep -q "listening on" "$output" && break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || status=$?
    cat "$output"
    grep -q "listening on" "$output" && return "$status"
}
"""


@dataclass(frozen=True)
class Block:
    """One fenced block of a document; ``line`` is its first line there."""

    line: int
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    """Return every fenced block in order."""
    text = document.read_text("utf-8")
    return [
        Block(text.count("\n", 0, match.start()) + 1, match["language"], dedent(match["text"]))
        for match in _FENCE.finditer(text)
    ]


def script(block: Block, place: Path, *, with_uv: bool) -> str:
    """Return the block as a bash script that uses ``place`` and stops at the first failure."""
    text = block.text
    for example, real in (
        ("/path/to/", f"{place}/"),
        ("/app/data/", f"{place}/"),
        ("/tmp/test.db", f"{place}/test.db"),
    ):
        text = text.replace(example, real)
    text = _DIALOGUE.sub(_heredoc, text)
    text = _NOX.sub("true", text).replace("pip install uv && ", "")
    text = text.replace(
        "alembic/versions/YYYYMMDD_HHMM_XXX_description.py",
        '"$(ls alembic/versions/*_add_user_preferences_table.py)"',
    )
    if not with_uv:
        text = text.replace("uv run ", "")
    text = _SERVER.sub(r"serve_briefly \g<command>", text)
    return f"set -euo pipefail\nPLACE='{place}'\n{_SERVE}\n{text}"


def _heredoc(match: re.Match[str]) -> str:
    lines = "".join(line.removeprefix("> ") for line in match["lines"].splitlines(keepends=True))
    return f"{match['command']} <<'SQL'\n{lines}SQL\n"


def checkout(target: Path) -> Path:
    """Copy the working tree to ``target`` and make it a new repository."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    for command in ("init --quiet", "add --all", "commit --quiet --message start"):
        subprocess.run(["git", *who, *command.split()], cwd=target, check=True)
    return target


def environment(place: Path, *folders: Path) -> dict[str, str]:
    """Return the environment of this process without variables of this project."""
    ours = ("TOKEN_", "DATABASE_URL", "UV_PROJECT", "VIRTUAL_ENV", "PYTHONPATH", "NOX_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    who = {
        f"GIT_{role}_{what}": f"test{ending}"
        for role in ("AUTHOR", "COMMITTER")
        for what, ending in (("NAME", ""), ("EMAIL", "@example.org"))
    }
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    database = {"TOKEN_STORAGE_DB": str(place / "tokens.db"), "UV_PYTHON": sys.executable}
    return {**kept, **who, **database, "PATH": path}


def run(block: Block, document: Path, cwd: Path, place: Path, env: dict[str, str]) -> str:
    """Run a block, which must succeed, and return its output."""
    with_uv = cwd != place
    result = subprocess.run(
        ["bash", "-c", script(block, place, with_uv=with_uv)],
        cwd=cwd,
        env=env,
        input="y\n" * 20,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    report = f"{document.name}:{block.line}\n{block.text}\n{result.stdout}\n{result.stderr}"
    assert result.returncode == 0, report
    assert "Traceback" not in result.stderr, report
    return result.stdout
