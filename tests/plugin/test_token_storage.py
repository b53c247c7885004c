"""``token_storage`` under each plugin that runs asynchronous tests, and under none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from tests.plugin.runs import FUNCTION_LOOPS, project, run_pytest

#: Uses a store on the loop of the test, and requires it closed when the test is over.
_CONFTEST = """
import pytest

async def _use(storage):
    await storage.store_refresh_token("alice", "secret")
    assert (await storage.get_refresh_token("alice")).token == "secret"

@pytest.fixture
def use(tmp_path):
    yield _use
    assert not (tmp_path / "tokens.db-wal").exists()

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""

_SOMEBODY = """
async def somebody(token_storage):
    await token_storage.store_refresh_token("bob", "secret")
    yield token_storage
"""

_ASYNCIO = f"""
import pytest
import pytest_asyncio

@pytest_asyncio.fixture
{_SOMEBODY.strip()}

@pytest.mark.asyncio
async def test_marked(use, token_storage):
    await use(token_storage)

@pytest.mark.asyncio
async def test_through_a_fixture(use, somebody):
    await use(somebody)
    assert await somebody.list_user_ids() == ["alice", "bob"]

@pytest.mark.asyncio(loop_scope="module")
async def test_on_the_loop_of_the_module(use, somebody):
    await use(somebody)

@pytest.mark.asyncio(loop_scope="session")
class TestInAClass:
    async def test_on_the_loop_of_the_session(self, use, token_storage):
        await use(token_storage)

@pytest.mark.asyncio
async def test_requested_in_a_running_test(request, use):
    await use(request.getfixturevalue("token_storage"))

def test_not_asynchronous(somebody, token_db):
    assert token_db.stat().st_size
"""

_ANYIO = f"""
import pytest

@pytest.fixture
{_SOMEBODY.strip()}

@pytest.mark.anyio
async def test_marked_for_anyio(use, token_storage):
    await use(token_storage)

@pytest.mark.anyio
async def test_requested_in_a_running_test(request, use):
    await use(request.getfixturevalue("token_storage"))

@pytest.mark.anyio
async def test_through_a_fixture_of_anyio(use, somebody):
    await use(somebody)
    assert await somebody.list_user_ids() == ["alice", "bob"]
"""

_TRIO = """
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio(token_storage):
    pass
"""

_TRIO_REQUESTED = """
import pytest
import trio

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_requested_on_trio(request):
    request.getfixturevalue("token_storage")

def test_without_a_plugin(request):
    async def main():
        storage = request.getfixturevalue("token_storage")
        await storage.list_user_ids()

    trio.run(main)
"""

_SYNCHRONOUS = """
import asyncio

def test_synchronous(use, token_storage):
    asyncio.run(use(token_storage))
    assert asyncio.run(token_storage.list_user_ids()) == ["alice"]
"""


def test_a_strict_pytest_asyncio_and_anyio_side_by_side(tmp_path: Path) -> None:
    """The store works on the loop of each plugin, of each scope, and without a plugin."""
    folder = project(
        tmp_path,
        conftest=_CONFTEST,
        test_asyncio=_ASYNCIO,
        test_anyio=_ANYIO,
        test_synchronous=_SYNCHRONOUS,
    )
    ran = run_pytest(folder, "-o", "asyncio_mode=strict", *FUNCTION_LOOPS)
    assert ran.counts == {"passed": 10}, ran.text


@pytest.mark.parametrize("order", [("anyio", "asyncio"), ("asyncio", "anyio")])
def test_an_automatic_pytest_asyncio_takes_all_tests(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    """The store works if pytest-asyncio runs what is marked for anyio, even for trio."""
    folder = project(
        tmp_path,
        conftest=_CONFTEST,
        test_asyncio=_ASYNCIO.replace("@pytest.mark.asyncio\n", ""),
        test_anyio=_ANYIO + _TRIO,
    )
    first, second = order
    # To name asyncio's plugin is to name the library, which pytest cannot rewrite.
    quiet = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    mode = ("-o", "asyncio_mode=auto", *FUNCTION_LOOPS, *quiet)
    ran = run_pytest(folder, "-p", first, "-p", second, *mode)
    assert ran.counts == {"passed": 10}, ran.text


def test_anyio_alone(tmp_path: Path) -> None:
    """The plugin of anyio is enough on asyncio; a test on trio fails with one clear line."""
    folder = project(tmp_path, conftest=_CONFTEST, test_anyio=_ANYIO + _TRIO)
    ran = run_pytest(folder, "-p", "no:asyncio")
    assert ran.counts == {"passed": 3, "error": 1}, ran.text
    assert (
        "\ntoken_storage cannot run on trio, because it needs asyncio: let a fixture "
        'anyio_backend return "asyncio".\n'
    ) in ran.text


def test_requested_where_it_cannot_work(tmp_path: Path) -> None:
    """On trio, a test that requests the store while it runs fails with one clear line."""
    folder = project(tmp_path, conftest=_CONFTEST, test_anyio=_TRIO_REQUESTED)
    ran = run_pytest(folder, "-p", "no:asyncio", "--tb=short")
    assert ran.counts == {"failed": 2}, ran.text
    section, other = ran.text.split(" test_without_a_plugin ")
    line = "token_storage cannot run on trio, because it needs asyncio: let a fixture "
    assert section.split(" test_requested_on_trio[trio] ")[1].strip("_\n").startswith(line)
    assert "E   [no-asyncio]\n" in other


def test_without_any_plugin(tmp_path: Path) -> None:
    """A test that is not asynchronous uses the store with asyncio.run()."""
    folder = project(tmp_path, conftest=_CONFTEST, test_synchronous=_SYNCHRONOUS)
    ran = run_pytest(folder, "-p", "no:asyncio", "-p", "no:anyio")
    assert ran.counts == {"passed": 1}, ran.text


def test_a_loop_that_ends_at_once_blocks_no_other_loop(token_storage: RefreshTokenStorage) -> None:
    """A store works on the next loop if one was closed right after it had asked for something."""
    unfinished = token_storage.list_user_ids()

    async def ask_in_the_last_turn() -> None:
        asyncio.get_running_loop().call_soon(unfinished.send, None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask_in_the_last_turn())
    loop.close()
    unfinished.close()
    assert asyncio.run(asyncio.wait_for(token_storage.list_user_ids(), 5)) == []
