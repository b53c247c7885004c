"""The tables at revisions without facts, read after running them in a temporary database."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from nextcloud_mcp_server.migrate.alembic_commands import ALEMBIC
from tests.migrations import facts, shapes
from tests.support import revisions

_SCHEMA: Final = "newer"


@cache
def on_sqlite(revision: str) -> dict[str, facts.Table]:
    """Return every table of SQLite at ``revision``."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    try:
        with engine.begin() as connection:
            _upgrade(connection, revision)
            return shapes.sqlite_tables(connection)
    finally:
        engine.dispose()


#: The tables of PostgreSQL by revision; filled if there is a server.
ON_POSTGRESQL: Final[dict[str, dict[str, facts.Table]]] = {}


def read_from_postgresql(url: str) -> None:
    """Fill :data:`ON_POSTGRESQL` from the server at ``url``, and roll back."""
    for revision in revisions.NEWER:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection, connection.begin() as transaction:
            connection.exec_driver_sql(f"CREATE SCHEMA {_SCHEMA}")
            connection.exec_driver_sql(f"SET LOCAL search_path = {_SCHEMA}")
            _upgrade(connection, revision)
            ON_POSTGRESQL[revision] = shapes.postgresql_tables(connection)
            transaction.rollback()
        engine.dispose()


def _upgrade(connection: sa.Connection, revision: str) -> None:
    config = Config(output_buffer=io.StringIO(), stdout=io.StringIO())
    config.set_main_option("script_location", _escaped(revisions.SCRIPTS))
    config.attributes["connection"] = connection
    with ALEMBIC:
        command.upgrade(config, revision)


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
