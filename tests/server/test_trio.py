"""The store runs on asyncio. Elsewhere it says so in one named error, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from starlette.applications import Starlette
from starlette.testclient import TestClient

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.lifespan import token_store_lifespan
from tests.support.contents import KEY


def _named(error: BaseException | None) -> bool:
    return isinstance(error, TokenStorageError) and error.code == "no-asyncio"


def _use(call: Callable[[], Awaitable[object]]) -> None:
    """Call on trio, which must raise the named error and leave no coroutine behind."""

    async def main() -> None:
        await call()

    with pytest.raises(TokenStorageError) as caught:
        trio.run(main)
    assert _named(caught.value)
    assert "asyncio" in caught.value.remedy
    # A coroutine that was never awaited is a warning here, and so an error.
    gc.collect()


def test_a_store_cannot_be_opened(path: Path) -> None:
    """The start fails before it makes a file, whether it is called or entered."""
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    for call in (storage.initialize, storage.__aenter__):
        _use(call)
    assert list(path.parent.iterdir()) == []


def test_an_open_store_cannot_be_used(path: Path) -> None:
    """No call of a store that asyncio has opened runs on trio; asyncio can still use it."""
    storage = RefreshTokenStorage(path, encryption_key=KEY)
    asyncio.run(storage.initialize())
    for call in (
        lambda: storage.store_refresh_token("alice", "secret"),
        lambda: storage.get_refresh_token("alice"),
        storage.list_user_ids,
        storage.audit.list,
        storage.close,
    ):
        _use(call)
    assert asyncio.run(storage.list_user_ids()) == []
    asyncio.run(storage.close())


def _entered(path: Path) -> Callable[[], Awaitable[object]]:
    return token_store_lifespan(path, encryption_key=KEY)(Starlette()).__aenter__


def test_the_lifespan_cannot_be_entered(path: Path) -> None:
    """The lifespan raises the same error."""
    _use(_entered(path))
    assert list(path.parent.iterdir()) == []


def test_an_application_fails_to_start(path: Path) -> None:
    """An application that is served on trio fails at its start with that error alone."""
    app = Starlette(lifespan=token_store_lifespan(path, encryption_key=KEY))
    with (
        pytest.RaisesGroup(
            pytest.RaisesExc(TokenStorageError, check=_named),
            flatten_subgroups=True,
            allow_unwrapped=True,
        ),
        TestClient(app, backend="trio"),
    ):
        raise AssertionError("unreachable")
    gc.collect()
