"""One store per test, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.auth.helpers import Clock
from tests.support.contents import KEY


@pytest.fixture
def path(token_db: Path) -> Path:
    """An empty database at head."""
    return token_db


@pytest.fixture
def clock() -> Clock:
    """The clock of the store."""
    return Clock()


@pytest.fixture
async def storage(path: Path, clock: Clock) -> AsyncIterator[RefreshTokenStorage]:
    """An open store."""
    async with RefreshTokenStorage(path, encryption_key=KEY, clock=clock) as storage:
        yield storage
