"""Read the shell blocks of a document and make a script of each, fit for a sandbox.

What is typed stays as it is, but for five things: the example paths become the sandbox's,
the server is stopped as soon as it listens, an interactive ``sqlite3`` reads its lines from
the block, ``uv`` is not installed again, and nox does not start nox.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_SERVER: Final = re.compile(r"^(?P<command>(uv run )?nextcloud-mcp-server)$", re.MULTILINE)
_DIALOGUE: Final = re.compile(r"^(?P<command>sqlite3 \S+)\n(?P<lines>(?:> .*\n)+)", re.MULTILINE)
_NOX: Final = re.compile(r"^.*\buvx nox\b.*$", re.MULTILINE)

#: Starts the server, waits until it listens, stops it, and answers its exit status.
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
    """One fenced block of a document.

    Attributes:
        line: where it begins, for the failure's message.
        language: the word behind the fence.
        text: what is inside.
    """

    line: int
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    """Every fenced block, in order."""
    text = document.read_text("utf-8")
    return [
        Block(text.count("\n", 0, match.start()) + 1, match["language"], match["text"])
        for match in _FENCE.finditer(text)
    ]


def script(block: Block, place: Path, *, with_uv: bool) -> str:
    """The block as a bash script that works in ``place`` and stops at the first failure."""
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
