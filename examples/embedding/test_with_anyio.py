"""The same with anyio's plugin, which is installed with the store."""

from __future__ import annotations

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from reminders import enrol, enrolled

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The store needs asyncio."""
    return "asyncio"


@pytest.fixture
async def bob(token_storage: RefreshTokenStorage) -> str:
    """A user who is enrolled."""
    await enrol(token_storage, "bob", "his grant")
    return "bob"


async def test_who_is_enrolled(token_storage: RefreshTokenStorage, bob: str) -> None:
    """A user who gave a grant is reminded."""
    assert await enrolled(token_storage) == [bob]
