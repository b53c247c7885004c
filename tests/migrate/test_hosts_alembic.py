"""What an application changes in SQLAlchemy and Alembic for its own tables does not change ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.ddl.impl import _impls
from alembic.ddl.sqlite import SQLiteImpl
from sqlalchemy import Table, event

from tests.cli.places import rows
from tests.migrate.databases import versions
from tests.support.by_path import downgrade, prepare
from tests.support.revisions import HEAD

#: The events of a table that an application can listen to for all tables.
EVENTS = ("before_create", "after_create", "before_drop", "after_drop")


def _note(_table: object, connection: Any, **_: object) -> None:
    connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS notes (of_the_application TEXT)")


@pytest.fixture
def listening() -> Iterator[None]:
    """Listen to the creation and the removal of every table of the process."""
    for name in EVENTS:
        event.listen(Table, name, _note)
    yield
    for name in EVENTS:
        event.remove(Table, name, _note)


@pytest.fixture
def replaced() -> Iterator[None]:
    """Register an implementation of an application, as Alembic's documentation shows."""
    original = _impls["sqlite"]

    class Own(SQLiteImpl):
        __dialect__ = "sqlite"

        def create_table(self, table: Table, **options: Any) -> None:
            raise AssertionError("this is for the tables of the application")

        def version_table_impl(self, **options: Any) -> Table:
            return super().version_table_impl(**{**options, "version_table": "own_version"})

    assert _impls["sqlite"] is Own
    yield
    _impls["sqlite"] = original


@pytest.mark.usefixtures("listening")
def test_events_of_every_table_leave_ours_alone(path: Path) -> None:
    """What an application executes at each of them is not executed here."""
    prepare(path)
    downgrade(path, "base")
    prepare(path)
    assert rows(path, "SELECT name FROM sqlite_master WHERE name = 'notes'") == []


@pytest.mark.usefixtures("replaced")
def test_an_own_implementation_of_an_application_is_not_used(path: Path) -> None:
    """Our revisions run with Alembic's own, and so does the version table."""
    prepare(path)
    assert versions(path) == [HEAD]
