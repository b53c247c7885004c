"""Databases from the fixtures for the tests of other services."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.server.app import create_app
from nextcloud_mcp_server.testing.templates import TokenDbAt
from tests.support.contents import KEY


@pytest.fixture(scope="session")
def head() -> str:
    """The newest revision."""
    return load_history().head


@pytest.fixture
def database(token_db: Path) -> Path:
    """An empty database at head."""
    return token_db


@pytest.fixture
def client(database: Path) -> Iterator[TestClient]:
    """The application on a database at head, which it checks at every request."""
    app = create_app(database, encryption_key=KEY, check_interval=0)
    with TestClient(app) as client:
        yield client


@pytest.fixture
def old_database(token_db_at: TokenDbAt, tmp_path: Path) -> Path:
    """An empty database at revision 006."""
    return token_db_at("006").rename(tmp_path / "old.db")


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """A file that is no database."""
    bad = tmp_path / "tokens.db"
    bad.write_text("no database\n" * 100)
    return bad


@pytest.fixture
def new_database(tmp_path: Path) -> Path:
    """The path of a database that does not exist."""
    return tmp_path / "new" / "tokens.db"


@pytest.fixture
def as_before() -> Iterator[None]:
    """Restore the level of every logger and the handler of every signal."""
    signals = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in signals]
    names = ("nextcloud_mcp_server", "uvicorn.access", "uvicorn.error", "uvicorn.asgi")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
    for number, handler in zip(signals, handlers, strict=True):
        signal.signal(number, handler)
