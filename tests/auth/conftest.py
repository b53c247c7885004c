"""One store per test, with a clock that the test sets, on each engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.auth.helpers import Clock
from tests.support.contents import KEY
from tests.support.postgresql import Server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each engine, unless it changes the file itself."""
    names = metafunc.fixturenames
    if "engine" in names:
        engines = ["sqlite"] if "path" in names else ["sqlite", "postgresql"]
        metafunc.parametrize("engine", engines, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of the store."""
    return str(request.param)


@pytest.fixture
def path(token_db: Path) -> Path:
    """An empty database at head."""
    return token_db


@pytest.fixture
def place(engine: str, request: pytest.FixtureRequest) -> str:
    """The place of the store: an empty file at head, or an empty schema of a server."""
    if engine == "sqlite":
        return str(request.getfixturevalue("token_db"))
    server: Server = request.getfixturevalue("postgresql_server")
    return server.schema_at_head()[1]


@pytest.fixture
def clock() -> Clock:
    """The clock of the store."""
    return Clock()


@pytest.fixture
async def storage(place: str, clock: Clock) -> AsyncIterator[RefreshTokenStorage]:
    """An open store."""
    async with RefreshTokenStorage(place, encryption_key=KEY, clock=clock) as storage:
        yield storage
