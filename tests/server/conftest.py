"""Databases for each test, from the fixtures that authors of other services use."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.history import load_history
from nextcloud_mcp_server.testing.templates import TokenDbAt


@pytest.fixture(scope="session")
def head() -> str:
    """The newest revision."""
    return load_history().head


@pytest.fixture
def database(token_db: Path) -> Path:
    """An empty database at head."""
    return token_db


@pytest.fixture
def old_database(token_db_at: TokenDbAt, tmp_path: Path) -> Path:
    """An empty database at revision 006."""
    return token_db_at("006").rename(tmp_path / "old.db")


@pytest.fixture
def new_database(tmp_path: Path) -> Path:
    """The path of a database that is not there yet."""
    return tmp_path / "new" / "tokens.db"
