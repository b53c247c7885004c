"""The tables of ``docs/reference/lint.md``, generated from the rules in the code.

``python -m tests.support.lint_page`` writes them; a test compares them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.authoring.lint.rules import RULES

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "lint.md"

#: The placeholders as they appear on the page.
_FILLED: Final = {"FILE": "FILE", "REV": "REV", "PARENT": "the previous id"}

_COMMAND: Final = re.compile(r"nextcloud-mcp-server db [^:]+$")


def table(*, refuses: bool) -> str:
    """Return the table of the rules that are errors, or of those that are notes."""
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
    """Return ``page`` with its tables generated."""
    for name, refuses in (("refused", True), ("noted", False)):
        between = re.compile(rf"(<!-- {name} -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
        page = between.sub(lambda m, refuses=refuses: m[1] + table(refuses=refuses) + m[2], page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
