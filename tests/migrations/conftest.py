"""Databases of each engine, and the files that released versions wrote."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from tests.migrations import newer
from tests.migrations.database import ROOT, Database, sqlite_engine
from tests.migrations.walk_report import Walk
from tests.support.postgresql import Server
from tests.support.revisions import NEWER
from tests.support.scripts import SCRIPTS

_schemas = count(1)


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[Database]:
    """A new database of SQLite."""
    engine = sqlite_engine(tmp_path / "tokens.db")
    yield Database(engine, "portable")
    await engine.dispose()


@pytest.fixture
def postgresql_url(postgresql_server: Server, _newer_revisions: None) -> str:
    """The URL of a new schema, the only one that its connections use."""
    _, url = postgresql_server.schema()
    return url.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(scope="session")
def _newer_revisions(postgresql_server: Server) -> None:
    newer.read_from_postgresql(
        postgresql_server.url().replace("postgresql://", "postgresql+psycopg://")
    )


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
