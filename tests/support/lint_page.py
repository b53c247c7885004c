"""The tables of ``docs/reference/lint.md``, made of the rules in the code.

``python -m tests.support.lint_page`` writes them anew; a test compares.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.authoring.lint.rules import RULES

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "lint.md"

#: What is filled in, as a reader of the page reads it.
_FILLED: Final = {"FILE": "FILE", "REV": "REV", "PARENT": "the previous id"}

_COMMAND: Final = re.compile(r"nextcloud-mcp-server db [^:]+$")


def table(*, refuses: bool) -> str:
    """The rules that refuse, or those that note."""
    rows = [
        f"| `{name}` | {rule.what} | {_remedy(rule.remedy)} |"
        for name, rule in RULES.items()
        if rule.refuses is refuses
    ]
    return "\n".join(["| rule | what is wrong | what to do |", "|---|---|---|", *rows])


def _remedy(text: str) -> str:
    filled = text.format(**_FILLED)
    return _COMMAND.sub(lambda match: f"`{match[0]}`.", filled)


def render(page: str) -> str:
    """``page`` with its tables made anew."""
    for name, refuses in (("refused", True), ("noted", False)):
        between = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
        page = between.sub(lambda m, refuses=refuses: m[1] + table(refuses=refuses) + m[2], page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
