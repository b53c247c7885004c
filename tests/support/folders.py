"""What is in a folder."""

from __future__ import annotations

from pathlib import Path


def names(folder: Path) -> set[str]:
    """The names in a folder."""
    return {path.name for path in folder.iterdir()}
