"""On which event loop a fixture opens its store: that of the plugin which runs the test.

An asynchronous fixture belongs to one plugin: pytest-asyncio wants it made with its own
decorator where it is strict, and takes every other one where it is not; anyio's takes those of
tests that have ``anyio_backend``. So there is one for each, and the fixture that people see
asks for the right one by name. Neither plugin is imported before it is found at work.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

if TYPE_CHECKING:
    from nextcloud_mcp_server.settings import Settings

ON_ANYIO: Final = "_token_storage_on_anyio"

_PLUGIN: Final = "nextcloud_mcp_server_on_asyncio"

#: What a loop of pytest-asyncio may belong to.
_SCOPES: Final = ("function", "class", "module", "package", "session")

_NOBODY: Final = (
    "token_storage needs an event loop that runs the test: mark it @pytest.mark.anyio, or "
    "pip install pytest-asyncio and mark it @pytest.mark.asyncio."
)

_NOT_ASYNCIO: Final = (
    "token_storage cannot run on {backend}, because aiosqlite needs asyncio: let a fixture "
    'anyio_backend return "asyncio".'
)


def fixture_name(request: pytest.FixtureRequest) -> str:
    """The fixture that opens the store for the test of ``request``, on that test's loop.

    Fails the test where no plugin gives it a loop, or where that is no loop of asyncio.
    """
    plugins = request.config.pluginmanager
    on_anyio = plugins.has_plugin("anyio") and "anyio_backend" in request.fixturenames
    marked = request.node.get_closest_marker("asyncio")
    # A strict pytest-asyncio would open a store for a test that it then does not run.
    if not (marked or on_anyio) and inspect.iscoroutinefunction(request.function):
        pytest.fail(_NOBODY, pytrace=False)
    # In its automatic mode pytest-asyncio marks, and runs, what anyio was to run.
    if plugins.has_plugin("asyncio") and (marked or not on_anyio):
        if not plugins.has_plugin(_PLUGIN):
            plugins.register(_on_asyncio(), _PLUGIN)
        return _name(_loop_scope(request.config, marked))
    if not on_anyio:
        pytest.fail(_NOBODY, pytrace=False)
    backend = request.getfixturevalue("anyio_backend_name")
    if backend != "asyncio":
        pytest.fail(_NOT_ASYNCIO.format(backend=backend), pytrace=False)
    return ON_ANYIO


def _name(scope: str) -> str:
    return f"_token_storage_on_{scope}_loop"


def _loop_scope(config: pytest.Config, marker: pytest.Mark | None) -> str:
    """Whose loop pytest-asyncio runs the test on, or a fixture of a test without one."""
    if marker is None:
        found = config.getini("asyncio_default_fixture_loop_scope")
        return str(found) if found in _SCOPES else "function"
    given = marker.kwargs.get("loop_scope") or marker.kwargs.get("scope")
    return str(given or config.getini("asyncio_default_test_loop_scope"))


def _on_asyncio() -> ModuleType:
    """A plugin with a fixture for each loop of pytest-asyncio."""
    plugin = ModuleType(_PLUGIN)
    for scope in _SCOPES:
        setattr(plugin, _name(scope), _fixture(scope))
    return plugin


def _fixture(scope: str) -> Callable[..., Any]:
    # pytest-asyncio is here: only where it is at work does anybody ask.
    import pytest_asyncio  # noqa: PLC0415

    # Not asynchronous, which anyio's plugin could take for its own. The decorator
    # makes the right loop the current one, and nothing runs on it yet.
    def opened(token_settings: Settings) -> Iterator[RefreshTokenStorage]:
        loop = asyncio.get_event_loop()
        storage = RefreshTokenStorage(settings=token_settings)
        loop.run_until_complete(storage.initialize())
        yield storage
        loop.run_until_complete(storage.close())

    decorate = pytest_asyncio.fixture(loop_scope=cast("Any", scope), name=_name(scope))
    return decorate(cast("Any", opened))
