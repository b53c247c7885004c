"""The token store as an ASGI lifespan, for any framework that takes one.

Bare, with the settings of the environment, or called with settings of its own::

    Starlette(lifespan=token_store_lifespan)
    FastAPI(lifespan=token_store_lifespan("tokens.db", encryption_key=key))

A handler then finds the open store in ``request.state.storage``. No framework is imported.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast, overload

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.concurrency import wait_to_the_end
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import Settings

#: What ASGI frameworks call an application, as far as a lifespan is concerned.
App = Callable[[Any, Any, Any], Awaitable[None]]

#: A lifespan as Starlette and FastAPI take it.
Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class TokenStoreState(TypedDict):
    """What the lifespan adds to ``request.state``."""

    storage: RefreshTokenStorage


@dataclass(frozen=True, slots=True)
class TokenStoreLifespan:
    """A configured lifespan. Each call opens a store of its own, so it can be used again.

    Attributes:
        database: a path, an SQLite URL, or None for what the settings say.
        encryption_key: one Fernet key or several, newest first; None for the settings'.
        settings: None to read them from the environment when the application starts.
        inner: another lifespan, entered after the store is open and left before it closes.
    """

    database: str | os.PathLike[str] | None = None
    encryption_key: str | bytes | Sequence[str | bytes] | None = field(default=None, repr=False)
    settings: Settings | None = None
    inner: Lifespan | None = None

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[TokenStoreState]:
        """Open the store, yield the state, and close the store, whatever happens between.

        A cancelled start ends only after the worker has: until then the lock is held. An
        error of the body and one of closing are both kept, the first as the second's
        ``__context__``.

        Args:
            app: handed to ``inner``.

        Raises:
            TokenStorageError: the store's own error, unchanged; ``bad-input`` where
                ``inner`` yields a key that is taken.
        """
        storage = RefreshTokenStorage(
            self.database, encryption_key=self.encryption_key, settings=self.settings
        )
        state = TokenStoreState(storage=storage)
        try:
            await storage.initialize()
            if self.inner is None:
                yield state
            else:
                async with self.inner(app) as more:
                    yield _merged(state, more)
        finally:
            # A close that is cut short leaves threads and a WAL behind.
            await wait_to_the_end(asyncio.ensure_future(storage.close()))


@overload
def token_store_lifespan(
    database: str | os.PathLike[str] | None = None,
    *,
    encryption_key: str | bytes | Sequence[str | bytes] | None = None,
    settings: Settings | None = None,
    inner: Lifespan | None = None,
) -> TokenStoreLifespan: ...


@overload
def token_store_lifespan(app: App, /) -> AbstractAsyncContextManager[TokenStoreState]: ...


def token_store_lifespan(
    database: str | os.PathLike[str] | App | None = None,
    *,
    encryption_key: str | bytes | Sequence[str | bytes] | None = None,
    settings: Settings | None = None,
    inner: Lifespan | None = None,
) -> TokenStoreLifespan | AbstractAsyncContextManager[TokenStoreState]:
    """A lifespan that brings the token database to head, opens the store and closes it.

    Used bare it is the lifespan itself, with the settings of the environment. Composed by
    hand: ``async with token_store_lifespan(...)(app) as state``.

    Args:
        database: a path, an SQLite URL, or None for what the settings say.
        encryption_key: one Fernet key or several, newest first; None for the settings'.
        settings: None to read them from the environment when the application starts.
        inner: another lifespan, entered after the store is open and left before it closes;
            its state is merged with ours.
    """
    if callable(database):
        return TokenStoreLifespan()(database)
    return TokenStoreLifespan(database, encryption_key, settings, inner)


def _merged(state: TokenStoreState, more: Mapping[str, Any] | None) -> TokenStoreState:
    if taken := sorted(state.keys() & (more or {}).keys()):
        raise TokenStorageError(
            f"The inner lifespan yields {', '.join(map(repr, taken))}, which is the store's.",
            code="bad-input",
            remedy="Give that part of the other lifespan's state another name.",
        )
    return cast("TokenStoreState", {**state, **(more or {})})
