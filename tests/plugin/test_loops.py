"""``token_storage`` under each plugin that runs asynchronous tests, and under none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugin.runs import FUNCTION_LOOPS, project, run_pytest

#: Holds a test to one loop: opened on it, used on it, closed on it.
_CONFTEST = """
import asyncio
import pytest
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage

@pytest.fixture(autouse=True)
def used_on(monkeypatch):
    loops = {}

    def noting(name):
        method = getattr(RefreshTokenStorage, name)

        async def noted(self):
            await method(self)
            loops[name] = asyncio.get_running_loop()

        monkeypatch.setattr(RefreshTokenStorage, name, noted)

    noting("initialize")
    noting("close")

    async def use(storage):
        await storage.store_refresh_token("alice", "secret")
        assert (await storage.get_refresh_token("alice")).token == "secret"
        loops["test"] = asyncio.get_running_loop()

    yield use
    assert len(loops) in (0, 2, 3), loops
    assert len(set(loops.values())) <= 1, loops

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

_ASYNCIO = """
import pytest
import pytest_asyncio

@pytest_asyncio.fixture
async def somebody(token_storage):
    await token_storage.store_refresh_token("bob", "secret")
    yield token_storage

@pytest.mark.asyncio
async def test_marked(token_storage, used_on):
    await used_on(token_storage)

@pytest.mark.asyncio
async def test_through_a_fixture(somebody, used_on):
    await used_on(somebody)
    assert await somebody.list_user_ids() == ["alice", "bob"]

@pytest.mark.asyncio(loop_scope="module")
async def test_on_the_loop_of_the_module(token_storage, used_on):
    await used_on(token_storage)

@pytest.mark.asyncio(loop_scope="session")
class TestInAClass:
    async def test_on_the_loop_of_the_session(self, token_storage, used_on):
        await used_on(token_storage)

def test_not_asynchronous(somebody, token_db):
    assert token_db.stat().st_size
"""

_ANYIO = """
import pytest

@pytest.mark.anyio
async def test_marked_for_anyio(token_storage, used_on):
    await used_on(token_storage)
"""

_ANYIO_FIXTURE = """
@pytest.fixture
async def somebody(token_storage):
    await token_storage.store_refresh_token("bob", "secret")
    yield token_storage

@pytest.mark.anyio
async def test_through_a_fixture_of_anyio(somebody, used_on):
    await used_on(somebody)
"""

_ANYIO_ALONE = """
import pytest

pytestmark = pytest.mark.anyio

@pytest.fixture
async def somebody(token_storage):
    await token_storage.store_refresh_token("bob", "secret")
    yield token_storage

async def test_through_a_fixture(somebody, used_on):
    await used_on(somebody)
    assert await somebody.list_user_ids() == ["alice", "bob"]

@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio(token_storage, used_on):
    await used_on(token_storage)
"""

_NOBODY = """
def test_that_no_plugin_runs(token_storage):
    pass
"""

_UNMARKED = """
async def test_that_nobody_marked(token_storage):
    pass
"""


def test_a_strict_pytest_asyncio_and_anyio_side_by_side(tmp_path: Path) -> None:
    """Each test's store is opened, used and closed on the loop that its plugin gives it."""
    folder = project(
        tmp_path, conftest=_CONFTEST, test_asyncio=_ASYNCIO, test_anyio=_ANYIO + _ANYIO_FIXTURE
    )
    ran = run_pytest(folder, "-o", "asyncio_mode=strict", *FUNCTION_LOOPS)
    assert ran.counts == {"passed": 7}, ran.text


@pytest.mark.parametrize("order", [("anyio", "asyncio"), ("asyncio", "anyio")])
def test_an_automatic_pytest_asyncio_takes_all_tests(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    """Where it runs what is marked for anyio too, the store is on its loop, whoever was first."""
    folder = project(
        tmp_path,
        conftest=_CONFTEST,
        test_asyncio=_ASYNCIO.replace("@pytest.mark.asyncio\n", ""),
        test_anyio=_ANYIO,
    )
    first, second = order
    # To name asyncio's plugin is to name the library, which pytest cannot rewrite.
    quiet = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    mode = ("-o", "asyncio_mode=auto", *FUNCTION_LOOPS, *quiet)
    ran = run_pytest(folder, "-p", first, "-p", second, *mode)
    assert ran.counts == {"passed": 6}, ran.text


def test_anyio_alone(tmp_path: Path) -> None:
    """anyio's plugin is enough, on asyncio; trio and a test without a loop get one clear line."""
    folder = project(
        tmp_path,
        conftest=_CONFTEST,
        test_anyio=_ANYIO,
        test_alone=_ANYIO_ALONE,
        test_nobody=_NOBODY,
    )
    ran = run_pytest(folder, "-p", "no:asyncio")
    assert ran.counts == {"passed": 2, "error": 2}, ran.text
    assert (
        "\ntoken_storage cannot run on trio, because aiosqlite needs asyncio: let a fixture "
        'anyio_backend return "asyncio".\n'
    ) in ran.text
    assert "\ntoken_storage needs an event loop that runs the test: mark it" in ran.text


def test_an_unmarked_test_beside_a_strict_pytest_asyncio(tmp_path: Path) -> None:
    """Nobody runs it, so it fails with that line, and not with pytest's list of plugins."""
    folder = project(tmp_path, test_unmarked=_UNMARKED)
    ran = run_pytest(folder, "-o", "asyncio_mode=strict", *FUNCTION_LOOPS)
    assert ran.counts == {"error": 1}, ran.text
    assert "\ntoken_storage needs an event loop that runs the test: mark it" in ran.text
    assert "async def functions are not natively supported" not in ran.text


def test_without_any_plugin_one_line_says_what_to_install(tmp_path: Path) -> None:
    """Where neither plugin is there, the test fails with what to install, and no traceback."""
    folder = project(tmp_path, test_nobody=_NOBODY)
    ran = run_pytest(folder, "-p", "no:asyncio", "-p", "no:anyio")
    assert ran.counts == {"error": 1}, ran.text
    assert (
        "\ntoken_storage needs an event loop that runs the test: mark it @pytest.mark.anyio, or "
        "pip install pytest-asyncio and mark it @pytest.mark.asyncio.\n"
    ) in ran.text
    assert "loops.py" not in ran.text
