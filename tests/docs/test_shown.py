"""The output that the documents show is that of this version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.schema.history import load_history
from tests.docs.conftest import DOCS, ROOT
from tests.wheel.documents import blocks

HEAD: Final = load_history().head

PAGES: Final = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

#: Where an output or a name of a file has the newest revision.
_NEWEST: Final = re.compile(
    r"at-head, ([0-9]{3})|upgrad\w+ (?:it|\S+ from [0-9]{3}) to ([0-9]{3})"
    r"|from revision [0-9]{3} to ([0-9]{3})|TIME-([0-9]{3})-manual|\"head\":\"([0-9]{3})\""
    r"|\((1[0-9]{2}) -> 1[0-9]{2}\)"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_shown_revision_is_head(page: Path) -> None:
    """What a start, a command or a backup is shown to name is the newest revision."""
    shown = [block for block in blocks(page) if block.language not in {"bash", "python"}]
    wrong = {
        f"{page.name}:{block.line}: {match[0]}"
        for block in shown
        for match in _NEWEST.finditer(block.text)
        if HEAD not in match.groups()
    }
    assert wrong == set()


def test_the_patterns_match_what_is_shown() -> None:
    """They find a revision in several pages, so that the test above compares something."""
    named = [
        page.name
        for page in PAGES
        if any(_NEWEST.search(block.text) for block in blocks(page) if block.language != "bash")
    ]
    assert len(named) >= 5, named
