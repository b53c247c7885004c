"""``env.py`` with a given connection."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

from tests.migrations import facts
from tests.migrations.database import Database, configuration


def upgrade(connection: sa.Connection) -> None:
    """Upgrade to head on ``connection``."""
    config = configuration()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def test_nothing_is_committed(database: Database) -> None:
    """The caller's transaction is not committed."""
    async with database.engine.connect() as connection, connection.begin() as transaction:
        await connection.run_sync(upgrade)
        assert connection.in_transaction()
        await transaction.rollback()
    assert await database.shape() == {}


async def test_a_connection_outside_a_transaction_is_refused(sqlite: Database) -> None:
    """A connection without a transaction is refused: Alembic would commit its own."""
    async with sqlite.engine.connect() as connection:
        with pytest.raises(CommandError, match="transaction"):
            await connection.run_sync(upgrade)


async def test_logging_is_left_alone(sqlite: Database) -> None:
    """Loggers, levels and handlers of the process are unchanged."""
    logger = logging.getLogger("somebody.elses")
    before = (logging.root.handlers[:], logging.root.level, logger.disabled)
    await sqlite.upgrade()
    assert (logging.root.handlers, logging.root.level, logger.disabled) == before


async def test_the_structure_is_asked_for_once(database: Database) -> None:
    """An upgrade reads the structure once; on PostgreSQL again after the statements of 102."""
    asked = []

    def notice(*event: Any) -> None:
        if "table_xinfo" in event[2] or "information_schema.columns" in event[2]:
            asked.append(event[2])

    sa.event.listen(database.engine.sync_engine, "after_cursor_execute", notice)
    await database.upgrade()
    assert len(asked) == (1 if database.is_sqlite else 2)
    assert await database.shape() == facts.tables(facts.HEAD, database.lineage)


async def test_a_second_run_on_one_connection_sees_the_first(sqlite: Database) -> None:
    """Down to base and up again works on one connection, in one transaction."""
    await sqlite.upgrade()
    catalogue = await sqlite.catalogue()
    await sqlite.run(("downgrade", "base"), ("upgrade", "head"))
    assert await sqlite.catalogue() == catalogue


async def test_the_connection_is_given_back_as_it_was(sqlite: Database) -> None:
    """No event handler is left on the connection."""

    def go(connection: sa.Connection) -> None:
        upgrade(connection)
        assert not list(connection.dispatch.after_cursor_execute)

    async with sqlite.engine.begin() as connection:
        await connection.run_sync(go)


@pytest.fixture
def odd_scripts(scripts: Path, tmp_path: Path) -> Path:
    """Rename the folder to a name with special characters."""
    return scripts.rename(tmp_path / "a %20 b%s")


async def test_scripts_in_a_folder_with_odd_characters_run(
    sqlite: Database, odd_scripts: Path
) -> None:
    """A percent sign and a space in the folder's name have no effect."""
    sqlite.scripts = odd_scripts
    await sqlite.upgrade()
    assert await sqlite.revision() == "101"
