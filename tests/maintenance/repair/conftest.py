"""Where the database lies that is to be repaired."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database lies."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    return folder / "tokens.db"
