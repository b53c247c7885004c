"""The Alembic environment: on whose connection the revisions run.

- The program hands over a synchronous connection, inside a transaction that is its own,
  in ``config.attributes["connection"]``. Nothing is begun or committed here: the stamp,
  all revisions and whatever follows them are one transaction. What it put into
  ``config.attributes["applied"]`` is called after each revision, and
  ``config.attributes["say"]`` is told what a long one is doing.
- Typed as ``alembic ...`` in a checkout, the database is the one of
  ``-x database_url=...``, else the one of the settings. It is opened with the lock, the
  pragmas and the transaction of the program, and its journal tells of what was changed.
  Commands that only look open it read-only.
- With ``--sql`` the statements are written and no database is opened. If
  ``config.attributes["reviewed"]`` is true, a step that needs a database is written as a comment.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from contextlib import asynccontextmanager
from logging.config import fileConfig
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import sqlalchemy as sa
from alembic import context
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

#: Whoever migrates this store on PostgreSQL holds this advisory lock in its transaction.
POSTGRESQL_LOCK = 0x6E63_6D63_7073_746F

#: The commands of Alembic that change the database; every other one only looks.
WRITING_COMMANDS = frozenset({"upgrade", "downgrade", "stamp", "ensure_version"})

config = context.config


def load(name: str) -> ModuleType:
    """Load a file beside this one, which is on no import path by design."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"_token_store_{name}", path)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def migrate(connection: sa.Connection) -> None:
    """Run what was asked for on a connection that is inside a transaction already."""
    if not connection.in_transaction():
        raise CommandError("The migrations need a connection that is inside a transaction.")
    if connection.dialect.name == "sqlite":
        refuse_foreign_keys(connection)
    applied = config.attributes.get("applied", lambda: None)
    say = config.attributes.get("say", lambda *_: None)
    guards = load("guards").Guards(connection, load, say=say)
    try:
        context.configure(
            connection=connection,
            transactional_ddl=True,
            transaction_per_migration=False,
            on_version_apply=lambda **_: applied(),
            guards=guards,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        guards.close()


def migrate_and_tell(connection: sa.Connection) -> None:
    """The same, and one line in the database's journal of what has changed, where it has one."""
    from nextcloud_mcp_server.migrate import journal  # noqa: PLC0415

    begun, before = time.monotonic(), recorded(connection)
    migrate(connection)
    after = recorded(connection)
    tables = sa.inspect(connection)
    if before == after or not tables.has_table(journal.TABLE):
        return
    if journal.has_columns({column["name"] for column in tables.get_columns(journal.TABLE)}):
        # Called from Python, it does not say as what.
        action = config.cmd_opts.cmd[0].__name__ if config.cmd_opts else "alembic"
        entry = journal.entry(action, before, after, begun=begun, note="by alembic itself")
        journal.record(lambda sql, values: connection.execute(sa.text(sql), values), entry)


def recorded(connection: sa.Connection) -> str | None:
    """The revision in the version table; None for none."""
    return ", ".join(MigrationContext.configure(connection).get_current_heads()) or None


def refuse_foreign_keys(connection: sa.Connection) -> None:
    """Refuse to run where dropping or recreating a table would delete other tables' rows.

    The pragma does nothing inside a transaction, so whoever begins it must turn it off.
    """
    if connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise CommandError("PRAGMA foreign_keys must be OFF before the transaction begins.")


def write_sql() -> None:
    """Write the statements of ``--sql``, as one transaction."""
    context.configure(
        dialect_name=dialect_of(given()),
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        output_buffer=config.output_buffer or sys.stdout,
        transactional_ddl=True,
        transaction_per_migration=False,
        guards=load("guards").Guards(None, load, reviewed=config.attributes.get("reviewed", False)),
    )
    with context.begin_transaction():
        context.run_migrations()


def given() -> str | None:
    """What ``-x database_url=...`` names: a URL or the plain path of a file of SQLite."""
    text = context.get_x_argument(as_dictionary=True).get("database_url")
    if text is not None and dialect_of(text) == "sqlite" and "://" in text and "?" in text:
        raise CommandError("A '?' in the URL would open another file; give the plain path.")
    return text


def dialect_of(text: str | None) -> str:
    """The engine that a database is of; the settings only know SQLite."""
    scheme, separator, _ = (text or "").partition("://")
    name = scheme.partition("+")[0].lower() if separator else "sqlite"
    if name not in {"sqlite", "postgresql"}:
        # The rest may hold a password, so it is not repeated.
        raise CommandError(f"database_url: the revisions do not run on {name!r}.")
    return name


def sqlite_path(text: str | None) -> Path:
    """The database file that was given, else that of the settings."""
    from nextcloud_mcp_server.settings import locate  # noqa: PLC0415

    return locate(database=text).database


def reading_url(path: Path) -> sa.URL:
    """A URL that changes nothing; a file that is not there reads as an empty database."""
    if not path.exists():
        return sa.URL.create("sqlite+aiosqlite", database=":memory:")
    name = f"file:{quote(str(path.absolute()))}"
    return sa.URL.create("sqlite+aiosqlite", database=name, query={"mode": "ro", "uri": "true"})


@asynccontextmanager
async def reading(url: sa.URL) -> AsyncIterator[AsyncConnection]:
    """A connection inside a transaction that writes nothing."""
    async with opened(url) as connection, connection.begin():
        yield connection


@asynccontextmanager
async def postgresql(text: str) -> AsyncIterator[AsyncConnection]:
    """A connection inside one transaction that holds the advisory lock until it ends."""
    try:
        url = sa.make_url(text).set(drivername="postgresql+psycopg")
    except (sa.exc.ArgumentError, ValueError):
        raise CommandError("database_url is not a URL that SQLAlchemy can read.") from None
    async with opened(url) as connection, connection.begin():
        await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({POSTGRESQL_LOCK})")
        yield connection


@asynccontextmanager
async def opened(url: sa.URL) -> AsyncIterator[AsyncConnection]:
    """A connection of an engine that is gone afterwards."""
    try:
        engine = create_async_engine(url, poolclass=NullPool, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{error.name} is not installed; the extra postgres brings it."
        ) from None
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def is_writing() -> bool:
    """Whether the typed command changes the database."""
    command: Any = getattr(config.cmd_opts, "cmd", None)
    return command is None or command[0].__name__ in WRITING_COMMANDS


async def run_on_own_connection() -> None:
    """Open the database, run what was asked for, and commit."""
    from nextcloud_mcp_server.backends.sqlite.transaction import migration_session  # noqa: PLC0415
    from nextcloud_mcp_server.errors import TokenStorageError  # noqa: PLC0415

    database = given()
    try:
        if database is not None and dialect_of(database) == "postgresql":
            session = postgresql(database)
        elif is_writing():
            session = migration_session(sqlite_path(database))
        else:
            session = reading(reading_url(sqlite_path(database)))
        async with session as connection:
            await connection.run_sync(migrate_and_tell if is_writing() else migrate)
    except TokenStorageError as error:
        raise CommandError(f"{error} {error.remedy}") from error


def main() -> None:
    """Run on the connection handed over, else write SQL, else open a database."""
    connection = config.attributes.get("connection")
    if context.is_offline_mode():
        write_sql()
    elif connection is not None:
        migrate(connection)
    else:
        if config.cmd_opts is not None and config.config_file_name is not None:
            # Alembic's own command line: nobody else has loggers in this process.
            fileConfig(config.config_file_name, disable_existing_loggers=False)
        asyncio.run(run_on_own_connection())


main()
