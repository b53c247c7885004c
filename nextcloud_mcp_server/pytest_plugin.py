"""Fixtures for tests of whatever keeps its tokens here: migrated databases, opened stores.

pytest finds them through the entry point; nothing has to be imported. Every fixture works on
files of the test's own below ``tmp_path``, and points the environment there for as long as the
test runs, so that no test reaches a database or a key of the person who runs it.

Nothing but pytest is imported here: who has the package installed and uses no fixture pays
for one small file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
    from nextcloud_mcp_server.settings import Settings
    from nextcloud_mcp_server.testing.rows import Rows
    from nextcloud_mcp_server.testing.templates import Templates, TokenDbAt
    from nextcloud_mcp_server.testing.walk import MigrationWalk, StartWalk

#: How long a test waits for the lock of a database before it fails, in seconds.
LOCK_TIMEOUT = 30.0

_NOT_ASYNCIO = (
    "token_storage cannot run on {backend}, because it needs asyncio: let a fixture "
    'anyio_backend return "asyncio".'
)


def _run_id(config: pytest.Config) -> str:
    """What the workers of pytest-xdist have in common; empty where there are none."""
    return str(getattr(config, "workerinput", {}).get("testrunuid", ""))


@pytest.fixture(scope="session")
def _token_templates(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Templates:
    from nextcloud_mcp_server.testing.templates import Templates  # noqa: PLC0415

    base = tmp_path_factory.getbasetemp()
    run = _run_id(pytestconfig)
    # A worker's folder lies in the run's; on another machine, in one that older runs share.
    return Templates((base.parent if run else base) / f"token-store-templates{run}")


@pytest.fixture(scope="session")
def token_encryption_key(pytestconfig: pytest.Config) -> str:
    """A Fernet key for this run: random, and the same in every worker of pytest-xdist.

    Every other fixture here uses it. Secrets that a test stores are sealed with it.
    """
    import base64  # noqa: PLC0415
    import hashlib  # noqa: PLC0415
    import secrets  # noqa: PLC0415

    seed = _run_id(pytestconfig).encode() or secrets.token_bytes(32)
    return base64.urlsafe_b64encode(hashlib.sha256(seed).digest()).decode()


@pytest.fixture
def token_environment(
    tmp_path: Path, token_encryption_key: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mapping[str, str]]:
    """The variables that the program reads, for this test: a path in tmp_path and the key.

    ``TOKEN_STORAGE_DB`` names ``tmp_path / "tokens.db"``, where nothing is unless
    ``token_db`` put it there. ``TOKEN_ENCRYPTION_KEY`` is set, every other variable of the
    program is unset, and all are as they were when the test is over. Every fixture below
    brings this one along.
    """
    from nextcloud_mcp_server.settings import VARIABLES  # noqa: PLC0415

    given = {
        "TOKEN_STORAGE_DB": str(tmp_path / "tokens.db"),
        "TOKEN_ENCRYPTION_KEY": token_encryption_key,
    }
    # Not with the fixture monkeypatch itself, which a test may undo while it runs.
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        for name, value in given.items():
            patch.setenv(name, value)
        yield given
        # What a test has set on top goes first; later it would bring these values back.
        monkeypatch.undo()


@pytest.fixture
def token_db(
    token_environment: Mapping[str, str], tmp_path: Path, _token_templates: Templates
) -> Path:
    """The path of an empty database at head, this test's own.

    It lies at ``tmp_path / "tokens.db"``, in WAL mode and readable by its owner alone. It was
    migrated once in this run and is copied for each test.
    """
    return _token_templates.copy("head", tmp_path / "tokens.db")


@pytest.fixture
def token_db_at(
    token_environment: Mapping[str, str], tmp_path: Path, _token_templates: Templates
) -> TokenDbAt:
    """Call it with a revision for the path of an empty database at that revision.

    Takes an id, ``base`` or ``head``. Each call makes another file in ``tmp_path``, as
    ``token_db`` is made. ``base`` is what a downgrade to it leaves. Raises TokenStorageError
    with the code ``unknown-revision``.
    """
    made = 0

    def at(revision: str) -> Path:
        nonlocal made
        made += 1
        return _token_templates.copy(revision, tmp_path / f"tokens-{made}-at-{revision}.db")

    return at


@pytest.fixture
def token_settings(token_db: Path, token_encryption_key: str) -> Settings:
    """The settings of ``token_db``: its path, the key of this run, 30 seconds for the lock.

    For whatever takes a Settings: ``RefreshTokenStorage``, ``token_store_lifespan``,
    ``create_app``.
    """
    from nextcloud_mcp_server.settings import Settings  # noqa: PLC0415

    return Settings(token_db, keys=(token_encryption_key,), lock_timeout=LOCK_TIMEOUT)


@pytest.fixture
def token_storage(
    request: pytest.FixtureRequest, token_settings: Settings
) -> Iterator[RefreshTokenStorage]:
    """A RefreshTokenStorage on ``token_db``, open while the test runs and closed afterwards.

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
            pytest.fail(_NOT_ASYNCIO.format(backend=backend), pytrace=False)
    storage = RefreshTokenStorage(settings=token_settings)
    # A loop of its own in a thread of its own: the loop of the test may be running.
    with ThreadPoolExecutor(1, "token-storage-fixture") as thread:
        thread.submit(asyncio.run, storage.initialize()).result()
        yield storage
        thread.submit(asyncio.run, storage.close()).result()


@pytest.fixture
def migration_walk(token_environment: Mapping[str, str], tmp_path: Path) -> Iterator[StartWalk]:
    """Call it to walk a database up and down its revisions, one by one, with rows in it.

    Without a database the walk begins with an empty file at ``base``; a database that is
    given is copied into ``tmp_path`` first, and the copy walks. ``rows`` are the author's own,
    by table; each joins at the first revision that has its table and columns. ``rewrites``
    names the columns, by table, that a revision changes on purpose. What every step must keep
    is said at :class:`~nextcloud_mcp_server.testing.walk.MigrationWalk`.
    """
    from contextlib import ExitStack, closing  # noqa: PLC0415
    from pathlib import Path  # noqa: PLC0415

    from nextcloud_mcp_server.testing.walk import MigrationWalk, copied  # noqa: PLC0415

    made = 0
    with ExitStack() as opened:

        def start(
            database: str | os.PathLike[str] | None = None,
            *,
            rows: Rows | None = None,
            rewrites: Mapping[str, Collection[str]] | None = None,
        ) -> MigrationWalk:
            nonlocal made
            made += 1
            source = None if database is None else Path(database)
            copy = copied(source, tmp_path / f"tokens-{made}-walking.db")
            return opened.enter_context(closing(MigrationWalk(copy, rows=rows, rewrites=rewrites)))

        yield start
