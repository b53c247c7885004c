"""What an application listens to on every Engine of SQLAlchemy does not change a migration."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from nextcloud_mcp_server.authoring.lint.review import review
from tests.backends.test_driver import _old
from tests.migrate.databases import versions
from tests.support.by_path import prepare
from tests.support.revisions import HEAD


def _execute(sql: str) -> Callable[..., None]:
    def listener(connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        cursor.execute(sql)
        cursor.close()

    return listener


def _set(name: str, value: object) -> Callable[..., None]:
    def listener(connection: Any, *_: object) -> None:
        # The connection of the driver below the adapters of SQLAlchemy and aiosqlite.
        made = getattr(connection, "driver_connection", connection)
        setattr(made, name, value)

    return listener


def _assign(connection: Any, *_: object) -> None:
    connection.row_factory = sqlite3.Row
    connection.text_factory = bytes


def _collate(connection: Any, *_: object) -> None:
    connection.create_collation("own", lambda one, other: (one > other) - (one < other))


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")


def _isolate(connection: Any, *_: object) -> None:
    connection.isolation_level = "DEFERRED"


#: Each with its event: recipes of SQLAlchemy's documentation, and what applications set.
LISTENERS: dict[str, tuple[str, Callable[..., None]]] = {
    "foreign keys": ("connect", _execute("PRAGMA foreign_keys=ON")),
    "foreign keys at each checkout": ("checkout", _execute("PRAGMA foreign_keys=ON")),
    "an open transaction": ("connect", _execute("BEGIN")),
    "rows": ("connect", _set("row_factory", sqlite3.Row)),
    "dicts": ("checkout", _set("row_factory", lambda _, row: dict(enumerate(row)))),
    "factories of the adapter": ("connect", _assign),
    "collation": ("connect", _collate),
    "bytes": ("connect", _set("text_factory", bytes)),
    "isolation level": ("connect", _isolate),
    "begin": ("begin", _begin),
}


@contextmanager
def listening(name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Listen to every Engine."""
    event.listen(Engine, name, listener)
    try:
        yield
    finally:
        event.remove(Engine, name, listener)


@pytest.mark.parametrize(("name", "listener"), LISTENERS.values(), ids=LISTENERS)
def test_a_migration_works_beside_a_listener(
    name: str, listener: Callable[..., None], path: Path
) -> None:
    """An old database is migrated with its rows; a walk and `db lint` find nothing."""
    with listening(name, listener):
        assert prepare(_old(path)).after == HEAD
        assert review().problems == ()
    assert versions(path) == [HEAD]
