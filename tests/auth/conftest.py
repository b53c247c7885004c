"""A store per test on its own file, copied from one that a real start has made."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.auth.helpers import KEY, Clock


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database at head, closed."""
    path = tmp_path_factory.mktemp("template") / "tokens.db"

    async def make() -> None:
        async with RefreshTokenStorage(path, encryption_key=KEY):
            pass

    asyncio.run(make())
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    """A database of this test's own."""
    return Path(shutil.copy(template, tmp_path / "tokens.db"))


@pytest.fixture
def clock() -> Clock:
    """The store's clock, which the test moves."""
    return Clock()


@pytest.fixture
async def storage(path: Path, clock: Clock) -> AsyncIterator[RefreshTokenStorage]:
    """An open store."""
    async with RefreshTokenStorage(path, encryption_key=KEY, clock=clock) as storage:
        yield storage
