"""Run the shell blocks of a document as scripts in a sandbox.

Seven things are changed: example paths become paths of the sandbox, example ids of keys become
those of the given keys, the server is stopped as soon as it listens, a request with ``curl`` gets
a server of its own, an interactive ``sqlite3`` reads its lines from the block, ``uv`` is not
installed again, and nox does not start nox. A block gets what the ones before it have exported.
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
_REQUEST: Final = re.compile(r"^(?P<command>curl .*)127\.0\.0\.1:8000", re.MULTILINE)
_DIALOGUE: Final = re.compile(r"^(?P<command>sqlite3 \S+)\n(?P<lines>(?:> .*\n)+)", re.MULTILINE)
_NOX: Final = re.compile(r"^.*\buvx nox\b.*$", re.MULTILINE)

#: Functions for the blocks. ``start`` starts the server and waits until it listens; ``finish``
#: stops it, prints its output and returns its exit status.
_FUNCTIONS: Final = """\
start() {
    "$@" --port 0 >"$PLACE/serving" 2>&1 &
    server=$!
    for _ in $(seq 600); do
        grep -q "listening on" "$PLACE/serving" && break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
}
finish() {
    local status=0
    kill -TERM "$server" 2>/dev/null || true
    wait "$server" || status=$?
    cat "$PLACE/serving"
    grep -q "listening on" "$PLACE/serving" && return "$status"
}
serve_briefly() {
    start "$@"
    finish
}
address() {
    sed -n 's|.*listening on http://\\([0-9.:]*\\).*|\\1|p' "$PLACE/serving"
}
key_id() {
    printf %s "$1" | tr _- /+ | base64 -d | sha256sum | cut -c1-8
}
"""
#: The ids in the documents, and the given keys whose ids take their places: the newest, the oldest.
_KEY_IDS: Final = (
    ("5d41402a", "$(key_id ${TOKEN_ENCRYPTION_KEY%%;*})"),
    ("7b52009b", "$(key_id ${TOKEN_ENCRYPTION_KEY##*;})"),
)


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
        *_KEY_IDS,
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
    if _REQUEST.search(text):
        text = _REQUEST.sub(r"\g<command>$(address)", text)
        text = f"start nextcloud-mcp-server\n{text}finish\n"
    exports = 'if [ -f "$PLACE/exports" ]; then . "$PLACE/exports"; fi'
    begin = f"set -euo pipefail\nPLACE='{place}'\n{exports}\n{_FUNCTIONS}"
    return f'{begin}\n{text}\nexport -p > "$PLACE/exports"\n'


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
    operator = {"STATUS_TOKEN": "the-token-of-the-operator"}
    return {**kept, **who, **database, **operator, "PATH": path}


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
