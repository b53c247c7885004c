"""Databases to copy from and to."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nextcloud_mcp_server.maintenance.copy.run import Copied, Copy, Problems
from nextcloud_mcp_server.migrations import upgrade_database
from nextcloud_mcp_server.settings import Settings, database_place
from tests.support.contents import KEY, rows
from tests.support.postgresql import Server

#: The rows of a database by table.
Contents = Mapping[str, set[tuple[Any, ...]]]


def settings(place: str | Path, *keys: str) -> Settings:
    """Return the settings for a database and its keys."""
    return Settings(database_place(place), keys)


def copy(source: str | Path, target: str | Path, *keys: str, **options: bool) -> Copied:
    """Copy with these keys (default: that of the tests)."""
    keys = keys or (KEY,)
    return Copy(settings(source, *keys), settings(target, *keys), **options).run()


def problems_of(source: str | Path, target: str | Path) -> tuple[str, Problems]:
    """Copy what cannot be copied; return the code and the problems."""
    found: list[Problems] = []
    work = Copy(settings(source, KEY), settings(target, KEY))
    with pytest.raises(Exception, match="nothing was copied") as caught:
        work.run(found.append)
    [problems] = found
    return getattr(caught.value, "code", ""), problems


def execute(path: Path, *statements: str) -> None:
    """Execute statements on a file."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def fill(path: Path) -> None:
    """Create a file at head with rows of every kind in every table."""
    upgrade_database(path)
    with closing(sqlite3.connect(path)) as connection:
        for table, found in rows().items():
            there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            for row in found:
                if kept := {name: value for name, value in row.items() if name in there}:
                    names, places = ", ".join(kept), ", ".join("?" * len(kept))
                    sql = f"INSERT INTO {table} ({names}) VALUES ({places})"
                    connection.execute(sql, tuple(kept.values()))
        connection.commit()


def contents(path: Path) -> Contents:
    """Return the rows of a file, but for the journal of migrations."""
    with closing(sqlite3.connect(path)) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            if name not in {"migration_journal", "alembic_version"}
            and not name.startswith("sqlite_")
        ]
        return {name: set(connection.execute(f"SELECT * FROM {name}")) for name in names}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file at head with rows of every kind."""
    path = tmp_path / "source.db"
    fill(path)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The path of a file that does not exist."""
    return tmp_path / "target.db"


@pytest.fixture
def schema(postgresql_server: Server) -> str:
    """The URL of an empty schema."""
    _, url = postgresql_server.schema()
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """A place without a database, once for each engine."""
    if request.param == "sqlite":
        return tmp_path / "other.db"
    server: Server = request.getfixturevalue("postgresql_server")
    _, url = server.schema()
    return url
