"""The page about performance."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.conftest import DOCS

PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_missed_limit_has_its_reason_beside_it(page: Path) -> None:
    """`uvx nox -s bench -- --write` writes NO; add the reason to the cell by hand."""
    for line in page.read_text("utf-8").splitlines():
        assert not line.startswith("|") or not line.endswith("| NO |"), line
