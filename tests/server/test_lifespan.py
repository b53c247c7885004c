"""The lifespan, in applications and used directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import FastAPI
from fastapi import Request as FastRequest
from fastapi.testclient import TestClient as FastClient
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.lifespan import TokenStoreLifespan, get_token_store, token_store_lifespan
from tests.server.helpers import is_closed
from tests.support.child import run_python
from tests.support.contents import KEY
from tests.support.errors import refuses

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.websockets import WebSocket


async def _users(request: Request) -> JSONResponse:
    storage: RefreshTokenStorage = request.state.storage
    await storage.store_refresh_token("alice", "rt")
    return JSONResponse(await storage.list_user_ids())


def _starlette(lifespan: TokenStoreLifespan) -> Starlette:
    return Starlette(lifespan=lifespan, routes=[Route("/users", _users)])


def test_bare_in_fastapi(new_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``FastAPI(lifespan=token_store_lifespan)`` opens the database of the environment."""
    monkeypatch.setenv("TOKEN_STORAGE_DB", str(new_database))
    app = FastAPI(lifespan=token_store_lifespan)

    @app.get("/users")
    async def users(request: FastRequest) -> list[str]:
        storage: RefreshTokenStorage = request.state.storage
        return await storage.list_user_ids()

    with FastClient(app) as client:
        assert client.get("/users").json() == []


def test_one_lifespan_serves_two_applications_and_restarts(database: Path) -> None:
    """The same lifespan opens a new store for each application, and again after a restart."""
    lifespan = token_store_lifespan(str(database), encryption_key=KEY)
    first, second = _starlette(lifespan), _starlette(lifespan)

    with TestClient(first) as one, TestClient(second) as two:
        assert one.get("/users").json() == ["alice"]
        assert two.get("/users").json() == ["alice"]
    with TestClient(first) as one:
        assert one.get("/users").json() == ["alice"]


def test_an_inner_lifespan_runs_while_the_store_is_open(database: Path) -> None:
    """The store is open when the inner lifespan starts and ends, and the states are merged."""
    seen: list[bool] = []
    opened: list[RefreshTokenStorage] = []

    @asynccontextmanager
    async def theirs(app: Starlette) -> AsyncIterator[Mapping[str, Any]]:
        seen.append(isinstance(app, Starlette))
        yield {"greeting": "hello"}
        seen.append(not is_closed(opened[0]))

    async def both(request: Request) -> JSONResponse:
        opened.append(request.state.storage)
        return JSONResponse(request.state.greeting)

    lifespan = token_store_lifespan(database, encryption_key=KEY, inner=theirs)
    with TestClient(Starlette(lifespan=lifespan, routes=[Route("/", both)])) as client:
        assert client.get("/").json() == "hello"

    assert seen == [True, True]
    assert is_closed(opened[0])


def _around(database: Path, state: Mapping[str, Any] | Exception | None) -> TokenStoreLifespan:
    """Return a lifespan around an inner one that yields this state, or raises this error."""

    @asynccontextmanager
    async def theirs(_app: object) -> AsyncIterator[Mapping[str, Any] | None]:
        if isinstance(state, Exception):
            raise state
        yield state

    return token_store_lifespan(database, encryption_key=KEY, inner=theirs)


async def test_an_inner_lifespan_can_be_a_generator_function(database: Path) -> None:
    """Starlette takes one without @asynccontextmanager too."""

    async def theirs(_app: object) -> AsyncIterator[Mapping[str, Any]]:
        yield {"cache": 1}

    inner: Any = theirs
    lifespan = token_store_lifespan(database, encryption_key=KEY, inner=inner)
    async with lifespan(None) as state:
        assert set(state) == {"storage", "cache"}


async def test_an_inner_lifespan_need_not_yield_a_state(database: Path) -> None:
    """An inner lifespan may yield nothing."""
    async with _around(database, None)(None) as state:
        assert list(state) == ["storage"]


async def test_a_key_that_both_yield_is_an_error(
    database: Path, opened: list[RefreshTokenStorage]
) -> None:
    """If both states have the same key the start fails, and the store is closed."""
    lifespan = _around(database, {"storage": "disk"})
    with refuses("bad-input", match="'storage'"):
        async with lifespan(None):
            pass

    assert [is_closed(storage) for storage in opened] == [True]


async def test_a_failing_inner_lifespan_closes_the_store(
    database: Path, opened: list[RefreshTokenStorage]
) -> None:
    """If the inner lifespan fails to start, its error is raised and the store is closed."""
    with pytest.raises(LookupError, match="their trouble"):
        async with _around(database, LookupError("their trouble"))(None):
            pass

    assert [is_closed(storage) for storage in opened] == [True]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[RefreshTokenStorage]:
    """The stores that the test opens."""
    stores: list[RefreshTokenStorage] = []
    initialize = RefreshTokenStorage.initialize

    async def remembering(storage: RefreshTokenStorage, *arguments: Any, **others: Any) -> None:
        stores.append(storage)
        await initialize(storage, *arguments, **others)

    monkeypatch.setattr(RefreshTokenStorage, "initialize", remembering)
    return stores


async def test_two_errors_are_both_kept(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If both the body and closing fail, the first error is the context of the second."""
    close = RefreshTokenStorage.close

    async def failing(storage: RefreshTokenStorage) -> None:
        await close(storage)
        raise OSError("closing")

    monkeypatch.setattr(RefreshTokenStorage, "close", failing)
    body = ValueError("body")
    with pytest.raises(OSError, match="closing") as raised:
        async with token_store_lifespan(database, encryption_key=KEY)(None):
            raise body

    assert raised.value.__context__ is body


async def test_a_file_that_is_deleted_before_any_request_is_saved(database: Path) -> None:
    """The lifespan holds the database open from the start; what is deleted is kept at the stop."""
    async with RefreshTokenStorage(database, encryption_key=KEY) as storage:
        await storage.store_refresh_token("alice", "kept")
    async with token_store_lifespan(database, encryption_key=KEY)(None):
        await asyncio.to_thread(database.unlink)
    [saved] = database.parent.glob("*-rescued")
    async with RefreshTokenStorage(saved, encryption_key=KEY) as storage:
        token = await storage.get_refresh_token("alice")
    assert token is not None
    assert token.token == "kept"


def test_no_framework_is_imported() -> None:
    """The lifespan works where neither Starlette nor uvicorn is installed."""
    program = (
        "import sys, nextcloud_mcp_server.lifespan;"
        "print({'starlette', 'uvicorn', 'click', 'alembic'} & sys.modules.keys())"
    )
    assert run_python(program) == "set()"


def test_the_key_is_not_shown(database: Path) -> None:
    """The repr of a lifespan shows no key."""
    assert KEY not in repr(token_store_lifespan(database, encryption_key=KEY))


async def _list(request: Request) -> JSONResponse:
    return JSONResponse(await get_token_store(request).list_user_ids())


def test_the_store_of_the_outermost_application_is_found(new_database: Path) -> None:
    """A mounted application finds the store of the outer one, in a request and in a WebSocket."""

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json(await get_token_store(socket).list_user_ids())
        await socket.close()

    inner = Starlette(routes=[Route("/users", _list), WebSocketRoute("/talk", talk)])
    lifespan = token_store_lifespan(str(new_database), encryption_key=KEY)
    app = Starlette(lifespan=lifespan, routes=[Mount("/api", inner)])
    with TestClient(app) as client:
        assert client.get("/api/users").json() == []
        with client.websocket_connect("/api/talk") as socket:
            assert socket.receive_json() == []


def _mounted_only(database: Path) -> TestClient:
    lifespan = token_store_lifespan(str(database), encryption_key=KEY)
    inner = Starlette(lifespan=lifespan, routes=[Route("/users", _list)])
    return TestClient(Starlette(routes=[Mount("/api", inner)]))


def _not_entered(database: Path) -> TestClient:
    lifespan = token_store_lifespan(str(database), encryption_key=KEY)
    return TestClient(Starlette(lifespan=lifespan, routes=[Route("/api/users", _list)]))


@pytest.mark.parametrize("start", [_mounted_only, _not_entered])
def test_a_missing_lifespan_is_one_line_with_a_remedy(
    start: Callable[[Path], TestClient], new_database: Path
) -> None:
    """On a mounted application the lifespan is not run: the error says where it belongs."""
    client = start(new_database)
    with pytest.raises(TokenStorageError, match="without token_store_lifespan") as raised:
        client.get("/api/users")
    assert raised.value.code == "not-open"
    assert "outermost application" in raised.value.remedy
    assert not new_database.exists()


def test_another_object_in_the_state_is_named() -> None:
    """A middleware may have set it."""
    request: Any = SimpleNamespace(scope={"state": {"storage": "disk"}})
    with refuses("not-open", "request.state.storage is of type str: something else has set it"):
        get_token_store(request)
