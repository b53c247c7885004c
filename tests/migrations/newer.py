"""The tables at revisions without facts, read after running them in a temporary database."""

from __future__ import annotations

from functools import cache
from typing import Final

import sqlalchemy as sa
from alembic import command

from nextcloud_mcp_server.migrate.alembic_commands import ALEMBIC
from tests.migrations import facts, shapes
from tests.migrations.database import configuration
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
    config = configuration()
    config.attributes["connection"] = connection
    with ALEMBIC:
        command.upgrade(config, revision)
