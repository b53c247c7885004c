"""Functions of the service, on an open store, with pytest-asyncio."""

from __future__ import annotations

import pytest
import pytest_asyncio

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from reminders import enrol, enrolled


@pytest_asyncio.fixture
async def alice(token_storage: RefreshTokenStorage) -> str:
    """A user who is enrolled: your own fixture may use ``token_storage``."""
    await enrol(token_storage, "alice", "her grant")
    return "alice"


@pytest.mark.asyncio
async def test_a_grant_is_kept(token_storage: RefreshTokenStorage, alice: str) -> None:
    """The grant of a user who is enrolled is stored, with the scopes of a reminder."""
    found = await token_storage.get_refresh_token(alice)
    assert found is not None
    assert (found.token, found.scopes) == ("her grant", ("calendar.read",))


@pytest.mark.asyncio
async def test_nobody_is_enrolled_at_first(token_storage: RefreshTokenStorage) -> None:
    """Each test has its own database, without users of other tests."""
    assert await enrolled(token_storage) == []
