"""Each test of the contract runs once for each engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.connect import connect
from tests.backends.contract.engines import ENGINES, Engine
from tests.support.postgresql import Server


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Return the engine under test."""
    assert isinstance(request.param, Engine)
    return request.param


@pytest.fixture
def place(engine: Engine, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Return a place without a database."""
    if engine.is_file:
        return str(tmp_path / "tokens.db")
    server: Server = request.getfixturevalue("postgresql_server")
    _, url = server.schema()
    return url


@pytest.fixture
def database(place: str) -> Database:
    """Return the database of that place, which does not exist yet."""
    return connect(place)
