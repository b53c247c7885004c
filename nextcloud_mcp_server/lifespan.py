"""The token store as an ASGI lifespan, for any framework.

Use it without a call, with the settings of the environment, or call it with other settings::

    Starlette(lifespan=token_store_lifespan)
    FastAPI(lifespan=token_store_lifespan("tokens.db", encryption_key=key))

A handler gets the open store from :func:`get_token_store`, or from ``request.state.storage``. With
``Request[TokenStoreState]``, ``request.state["storage"]`` has a type. No framework is imported.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypedDict, cast, overload

from nextcloud_mcp_server import forks  # noqa: F401 - first: a fork waits for the rest
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.concurrency import running_loop, wait_to_the_end
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.settings import (
    EMBEDDED_LOCK_TIMEOUT,
    Settings,
    absolute_database,
    load_settings,
)

if TYPE_CHECKING:
    from nextcloud_mcp_server.filesystem.server_url import ServerUrl
    from nextcloud_mcp_server.migrate.startup import Outcome

logger = logging.getLogger(__name__)

#: An ASGI application.
App = Callable[[Any, Any, Any], Awaitable[None]]

#: A lifespan of Starlette or FastAPI.
Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


class TokenStoreState(TypedDict):
    """The attributes that the lifespan adds to ``request.state``."""

    storage: RefreshTokenStorage


class Connection(Protocol):
    """A request or a WebSocket of Starlette or FastAPI."""

    @property
    def scope(self) -> MutableMapping[str, Any]:
        """The scope of ASGI."""


def get_token_store(request: Connection) -> RefreshTokenStorage:
    """Return the open store of the application that answers ``request``.

    Raises:
        TokenStorageError: ``not-open`` if the application was started without the lifespan.
    """
    storage = request.scope.get("state", {}).get("storage")
    if isinstance(storage, RefreshTokenStorage):
        return storage
    if storage is not None:
        raise TokenStorageError(
            f"request.state.storage is of type {type(storage).__name__}: something else has set it "
            "after token_store_lifespan.",
            code="not-open",
            remedy="Use another name there, in a middleware for example.",
        )
    raise TokenStorageError(
        "request.state has no storage: the application was started without token_store_lifespan, "
        "or its framework drops the state of a lifespan.",
        code="not-open",
        remedy="Give the lifespan to the outermost application, the one that the server runs: the "
        "lifespan of a mounted application is not run. In a test, enter the client: "
        "with TestClient(app) as client. In Litestar, which drops it, open a "
        "RefreshTokenStorage in a lifespan of your own.",
    )


@dataclass(frozen=True, slots=True)
class TokenStoreLifespan:
    """A configured lifespan. Each call opens a new store, so it can be used several times.

    Its fields are the arguments of :func:`token_store_lifespan`.
    """

    database: str | os.PathLike[str] | ServerUrl | None = None
    encryption_key: str | bytes | Sequence[str | bytes] | None = field(default=None, repr=False)
    settings: Settings | None = None
    inner: Lifespan | None = None

    def __post_init__(self) -> None:
        """Make a relative path absolute, before the working directory can change."""
        object.__setattr__(self, "database", absolute_database(self.database))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a lifespan is not pickled or copied: that would expose its keys")

    @asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[TokenStoreState]:
        """Open the store, yield the state, and always close the store.

        A cancelled start waits until its worker thread has ended and the lock is free. A server
        that is stopped during the start does not cancel it, so the start waits for the lock of
        the database for 30 seconds only, unless the settings have another time. If
        both the body and closing fail, the first error is the ``__context__`` of the second.

        Args:
            app: the argument for ``inner``.

        Raises:
            TokenStorageError: the error of the store, unchanged; ``bad-input`` if ``inner``
                yields a key of the store's state; ``no-asyncio`` on trio.
        """
        running_loop()
        settings = self.settings or load_settings(
            database=self.database, default_lock_timeout=EMBEDDED_LOCK_TIMEOUT
        )
        storage = RefreshTokenStorage(
            self.database, encryption_key=self.encryption_key, settings=settings
        )
        state = TokenStoreState(storage=storage)
        try:
            await storage.initialize()
            _log(storage.outcome)
            await storage.connect()
            if self.inner is None:
                yield state
            else:
                # Starlette takes a generator function too.
                inner: Any = self.inner
                if isasyncgenfunction(inner):
                    inner = asynccontextmanager(inner)
                async with inner(app) as more:
                    yield _merged(state, more)
        finally:
            # An interrupted close would leave threads and a WAL behind.
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
    """Return a lifespan that migrates the database to head, opens the store and closes it.

    Without a call it is the lifespan itself, with the settings of the environment. It can
    also be entered directly: ``async with token_store_lifespan(...)(app) as state``.

    Args:
        database: a path or a URL; None for the one in the settings.
        encryption_key: one Fernet key or several, newest first; None for those of the settings.
        settings: None to read them from the environment when the application starts. Their
            ``lock_timeout`` is then 30 seconds, unless ``TOKEN_STORAGE_LOCK_TIMEOUT`` is set.
        inner: another lifespan, which runs while the store is open; the states are merged.
    """
    if callable(database):
        return TokenStoreLifespan()(database)
    return TokenStoreLifespan(database, encryption_key, settings, inner)


def _log(outcome: Outcome | None) -> None:
    """Log what a start changed, where the host's log shows it; configure nothing."""
    # Imported by the start already, in its thread.
    from nextcloud_mcp_server.migrate.plan import Action  # noqa: PLC0415
    from nextcloud_mcp_server.migrate.summary import outcome_lines  # noqa: PLC0415

    if outcome is None or outcome.action is Action.NOTHING:
        return
    # Printed also if nobody has configured logging. `logging.config.fileConfig()`, which Alembic's
    # own env.py calls, disables every logger that is there, but not the root.
    log, level = logging.getLogger() if logger.disabled else logger, logging.WARNING
    # uvicorn configures its own loggers only.
    for shown in (logger, logging.getLogger("uvicorn.error"), log):
        if shown.isEnabledFor(logging.INFO) and shown.hasHandlers():
            log, level = shown, logging.INFO
            break
    for line in outcome_lines(outcome):
        log.log(level, "%s", line)


def _merged(state: TokenStoreState, more: Mapping[str, Any] | None) -> TokenStoreState:
    if taken := sorted(state.keys() & (more or {}).keys()):
        raise TokenStorageError(
            f"The inner lifespan yields {', '.join(map(repr, taken))}, a name of the token store.",
            code="bad-input",
            remedy="Use another name in the state of the inner lifespan.",
        )
    return cast("TokenStoreState", {**state, **(more or {})})
