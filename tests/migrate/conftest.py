"""Where a start finds its database."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where this test's database lies; nothing else is in its folder."""
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "tokens.db"
