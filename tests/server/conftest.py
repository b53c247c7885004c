"""Databases for each test, copied from one that a real start has made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nextcloud_mcp_server.history import load_history
from nextcloud_mcp_server.startup import prepare
from nextcloud_mcp_server.upkeep import downgrade


@pytest.fixture(scope="session")
def head() -> str:
    """The newest revision."""
    return load_history().head


@pytest.fixture(scope="session")
def _templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    prepare(folder / "head.db")
    shutil.copy(folder / "head.db", folder / "old.db")
    downgrade(folder / "old.db", "006")
    return folder


@pytest.fixture
def database(_templates: Path, tmp_path: Path) -> Path:
    """An empty database at head."""
    return Path(shutil.copy(_templates / "head.db", tmp_path / "tokens.db"))


@pytest.fixture
def old_database(_templates: Path, tmp_path: Path) -> Path:
    """An empty database at revision 006."""
    return Path(shutil.copy(_templates / "old.db", tmp_path / "old.db"))


@pytest.fixture
def new_database(tmp_path: Path) -> Path:
    """The path of a database that is not there yet."""
    return tmp_path / "new" / "tokens.db"
