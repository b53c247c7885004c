"""Folders of migration scripts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextcloud_mcp_server.schema.history import load_history
from tests.authoring.lint.folder import Folder, make


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Create two released revisions, once."""
    return make(tmp_path_factory.mktemp("model") / "alembic")


@pytest.fixture
def folder(model: Folder, tmp_path: Path) -> Iterator[Folder]:
    """Copy the two revisions."""
    shutil.copytree(model.path, tmp_path / "alembic", ignore=shutil.ignore_patterns("__pycache__"))
    yield Folder(tmp_path / "alembic")
    load_history.cache_clear()
