"""Fixtures for tests of services that use the token store: migrated databases, opened stores.

pytest loads them through the entry point. Each fixture works on files in ``tmp_path``, and sets
the environment to them, so that no test uses the developer's database or key.

Only pytest is imported here, so that a run without these fixtures stays fast.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
    from nextcloud_mcp_server.settings import Settings
    from nextcloud_mcp_server.testing.templates import Templates, TokenDbAt
    from nextcloud_mcp_server.testing.walk import StartWalk

#: How long a test waits for the lock of a database before it fails, in seconds.
LOCK_TIMEOUT = 30.0


def _run_id(config: pytest.Config) -> str:
    """Return the id that the workers of pytest-xdist share; empty without workers."""
    return str(getattr(config, "workerinput", {}).get("testrunuid", ""))


@pytest.fixture(scope="session")
def _token_templates(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Templates:
    from nextcloud_mcp_server.testing.templates import Templates  # noqa: PLC0415

    base = tmp_path_factory.getbasetemp()
    run = _run_id(pytestconfig)
    # The folder of a worker is in the folder of the run.
    return Templates((base.parent if run else base) / f"token-store-templates{run}")


@pytest.fixture(scope="session")
def token_encryption_key(pytestconfig: pytest.Config) -> str:
    """Return a Fernet key for this run: random, and the same in every worker of pytest-xdist."""
    import base64  # noqa: PLC0415
    import hashlib  # noqa: PLC0415
    import secrets  # noqa: PLC0415

    seed = _run_id(pytestconfig).encode() or secrets.token_bytes(32)
    return base64.urlsafe_b64encode(hashlib.sha256(seed).digest()).decode()


@pytest.fixture
def token_environment(
    tmp_path: Path, token_encryption_key: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mapping[str, str]]:
    """Set the variables of the program for this test: a path in tmp_path and the key.

    All its other variables are unset. Every fixture below uses this one.
    """
    from nextcloud_mcp_server.settings import variables  # noqa: PLC0415

    given = {
        "TOKEN_STORAGE_DB": str(tmp_path / "tokens.db"),
        "TOKEN_ENCRYPTION_KEY": token_encryption_key,
    }
    # Not with the fixture monkeypatch itself, which a test may undo while it runs.
    with pytest.MonkeyPatch.context() as patch:
        for name in variables.ALL:
            patch.delenv(name, raising=False)
        for name, value in given.items():
            patch.setenv(name, value)
        yield given
        # What the test has set is undone first; later it would restore these values.
        monkeypatch.undo()


@pytest.fixture
def token_db(
    token_environment: Mapping[str, str], tmp_path: Path, _token_templates: Templates
) -> Path:
    """Return the path of this test's own empty database at head, a copy of the run's template."""
    return _token_templates.copy("head", tmp_path / "tokens.db")


@pytest.fixture
def token_db_at(
    token_environment: Mapping[str, str], tmp_path: Path, _token_templates: Templates
) -> TokenDbAt:
    """Return a function that creates an empty database at a revision, and returns its path.

    It takes an id, ``base`` or ``head``, and creates another file in ``tmp_path`` for each call.
    It raises TokenStorageError with the code ``unknown-revision``.
    """
    numbers = count(1)

    def at(revision: str) -> Path:
        return _token_templates.copy(
            revision, tmp_path / f"tokens-{next(numbers)}-at-{revision}.db"
        )

    return at


@pytest.fixture
def token_settings(token_db: Path, token_encryption_key: str) -> Settings:
    """Return the settings of ``token_db``: its path, the key, 30 seconds for the lock."""
    from nextcloud_mcp_server.settings import Settings  # noqa: PLC0415

    return Settings(token_db, keys=(token_encryption_key,), lock_timeout=LOCK_TIMEOUT)


@pytest.fixture
def token_storage(
    request: pytest.FixtureRequest, token_settings: Settings
) -> Iterator[RefreshTokenStorage]:
    """Yield a RefreshTokenStorage on ``token_db``, open while the test runs.

    It works on every event loop of asyncio: with pytest-asyncio, with anyio's plugin, and in
    ``asyncio.run()`` of a test that is not asynchronous. A test on trio fails.
    """
    import asyncio  # noqa: PLC0415
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from nextcloud_mcp_server.auth.storage import RefreshTokenStorage  # noqa: PLC0415

    # pytest-asyncio in auto mode marks the tests of anyio too, and runs them on asyncio.
    if "anyio_backend" in request.fixturenames and not request.node.get_closest_marker("asyncio"):
        backend = request.getfixturevalue("anyio_backend_name")
        if backend != "asyncio":
            pytest.fail(
                f"token_storage cannot run on {backend}, because it needs asyncio: let a fixture "
                'anyio_backend return "asyncio".',
                pytrace=False,
            )
    storage = RefreshTokenStorage(settings=token_settings)
    # A loop of its own in a thread of its own: the loop of the test may be running.
    with ThreadPoolExecutor(1, "token-storage-fixture") as thread:
        thread.submit(asyncio.run, storage.initialize()).result()
        yield storage
        thread.submit(asyncio.run, storage.close()).result()


@pytest.fixture
def migration_walk(token_environment: Mapping[str, str], tmp_path: Path) -> Iterator[StartWalk]:
    """Yield a function that migrates a database up and down, one revision at a time, with rows.

    A given database is copied into ``tmp_path``. ``rows`` are inserted, by table; ``changes``
    declares, by revision, the intended changes of rows. Each step asserts what
    :class:`~nextcloud_mcp_server.testing.walk.MigrationWalk` lists.
    """
    from contextlib import ExitStack  # noqa: PLC0415

    from nextcloud_mcp_server.testing.walk import StartWalk  # noqa: PLC0415

    with ExitStack() as opened:
        yield StartWalk(tmp_path, opened)
