"""The Alembic environment: choose the connection, and run the revisions.

- The program passes a synchronous connection in ``config.attributes["connection"]``, inside its
  own transaction. Nothing is begun or committed here. ``config.attributes["applied"]`` is called
  after each revision; ``config.attributes["say"]`` receives progress updates, and
  ``config.attributes["decryption"]`` has the keys.
- The ``alembic`` command in a checkout uses the database of ``-x database_url=...``, or of the
  settings. It is opened with the lock, the pragmas and the transaction of the program, and the
  change is recorded in its journal. Commands that change nothing open it read-only.
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

config = context.config


def load(name: str) -> ModuleType:
    """Load a file of this folder, which is not on the import path, as this one was loaded."""
    path = Path(__file__).with_name(f"{name}.py")
    module_name = f"_token_store_{name}"
    # The program's own loader gives its files an `op` that no other use of Alembic can reach.
    loader = type(__loader__)(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def migrate(connection: sa.Connection, **options: Any) -> None:
    """Run the revisions on a connection that is in a transaction.

    ``options`` are further ones of ``context.configure``.
    """
    if not connection.in_transaction():
        raise CommandError("The migrations need a connection that is in a transaction.")
    # Dropping a table would delete rows of other tables.
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite and connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise CommandError("PRAGMA foreign_keys must be OFF before the transaction begins.")
    applied = config.attributes.get("applied", lambda: None)
    progress = config.attributes.get("say", lambda *_: None)
    guards = load("guards").Guards(
        connection, load, progress=progress, decryption=config.attributes.get("decryption")
    )
    try:
        context.configure(
            connection=connection,
            transactional_ddl=True,
            transaction_per_migration=False,
            on_version_apply=lambda **_: applied(),
            guards=guards,
            **options,
        )
        run_revisions(guards)
    finally:
        guards.close()


def run_revisions(guards: Any) -> None:
    """Run the revisions, which get ``guards`` by import or from the migration context."""
    from nextcloud_mcp_server.migrate.guards import using  # noqa: PLC0415

    with using(guards), context.begin_transaction():
        context.run_migrations()


def migrate_and_record(connection: sa.Connection) -> None:
    """Run the revisions, and record the change in the journal if the database has one."""
    from nextcloud_mcp_server.migrate import journal  # noqa: PLC0415

    begun, before = time.monotonic(), recorded(connection)
    migrate(connection)
    after = recorded(connection)
    tables = sa.inspect(connection)
    if before == after or not tables.has_table(journal.TABLE):
        return
    if journal.has_columns({column["name"] for column in tables.get_columns(journal.TABLE)}):
        # Called from Python, the name of the command is unknown.
        action = config.cmd_opts.cmd[0].__name__ if config.cmd_opts else "alembic"
        journal.record(
            lambda sql, values: connection.execute(sa.text(sql), values),
            action,
            before,
            after,
            begun=begun,
            note="by alembic itself",
        )


def compare(connection: sa.Connection) -> None:
    """Run a command that changes nothing: ``current``, or ``check``, which compares the tables."""
    from nextcloud_mcp_server.schema.tables import metadata  # noqa: PLC0415

    def is_ours(item: Any, _name: object, kind: str, reflected: bool, found: Any) -> bool:
        # Operators may have tables, columns and indexes of their own.
        if reflected and found is None:
            return False
        if kind == "column" and item.primary_key and found is not None:
            # In the tables of old releases SQLite allows NULL there.
            found.nullable = item.nullable
        return connection.dialect.name == "sqlite" or not item.info.get("sqlite_only")

    # Old releases had other types, which hold the same values.
    migrate(connection, target_metadata=metadata, include_object=is_ours, compare_type=False)


def recorded(connection: sa.Connection) -> str | None:
    """Return the revision in the version table; None if there is none."""
    return ", ".join(MigrationContext.configure(connection).get_current_heads()) or None


def write_sql() -> None:
    """Write the statements of ``--sql`` as one transaction."""
    guards = load("guards").Guards(None, load, reviewed=config.attributes.get("reviewed", False))
    context.configure(
        dialect_name=dialect_of(given()),
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        output_buffer=config.output_buffer or sys.stdout,
        transactional_ddl=True,
        transaction_per_migration=False,
        guards=guards,
    )
    run_revisions(guards)


def given() -> str | None:
    """Return ``-x database_url=...``: a URL, or the path of an SQLite file."""
    text = context.get_x_argument(as_dictionary=True).get("database_url")
    if text is not None and dialect_of(text) == "sqlite" and "://" in text and "?" in text:
        raise CommandError("A '?' in the URL would open another file; give the plain path.")
    return text


def dialect_of(text: str | None) -> str:
    """Return the engine of a database; without a URL it is SQLite."""
    scheme, separator, _ = (text or "").partition("://")
    name = scheme.partition("+")[0].lower() if separator else "sqlite"
    if name not in {"sqlite", "postgresql"}:
        # Not the rest, which may contain a password.
        raise CommandError(f"database_url: the revisions do not run on {name!r}.")
    return name


def reading_url(path: Path) -> sa.URL:
    """Return a read-only URL; a file that is missing or empty is an empty database."""
    if not path.exists() or not path.stat().st_size:
        return sa.URL.create("sqlite+aiosqlite", database=":memory:")
    name = f"file:{quote(str(path.absolute()))}"
    query = {"mode": "ro", "uri": "true"}
    if not any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal")):
        # Nobody has it open, and SQLite would leave a -shm and an empty -wal.
        query["immutable"] = "1"
    return sa.URL.create("sqlite+aiosqlite", database=name, query=query)


@asynccontextmanager
async def opened(url: sa.URL) -> AsyncIterator[AsyncConnection]:
    """Open a connection in a transaction."""
    engine = create_async_engine(url, poolclass=NullPool, hide_parameters=True)
    try:
        async with engine.begin() as connection:
            yield connection
    finally:
        await engine.dispose()


def is_writing() -> bool:
    """Return whether the command is an upgrade, downgrade, stamp or ensure_version."""
    command: Any = getattr(config.cmd_opts, "cmd", None)
    if command is not None and command[0].__name__ == "ensure_version":
        return True
    try:
        context.get_revision_argument()
    except KeyError:
        # The others have no revision to end at.
        return False
    return True


def keys_for(database: str | None) -> Any:
    """Return the available keys, which only a downgrade that decrypts needs."""
    from nextcloud_mcp_server.crypto.keyfile import available_keyring  # noqa: PLC0415
    from nextcloud_mcp_server.settings import load_settings  # noqa: PLC0415

    return available_keyring(load_settings(database=database))


async def run_on_own_connection() -> None:
    """Open the database, run the revisions, and commit."""
    from nextcloud_mcp_server.backends.connect import connect  # noqa: PLC0415
    from nextcloud_mcp_server.errors import TokenStorageError  # noqa: PLC0415
    from nextcloud_mcp_server.migrate.decryption import Decryption  # noqa: PLC0415
    from nextcloud_mcp_server.migrate.inspect import inspect  # noqa: PLC0415
    from nextcloud_mcp_server.schema.history import load_history  # noqa: PLC0415
    from nextcloud_mcp_server.settings import locate  # noqa: PLC0415

    database, place = given(), None
    try:
        # Alembic only warns of two files with one id.
        load_history(Path(__file__).parent)
        place = connect(locate(database=database).database)
        config.attributes["decryption"] = Decryption(place, lambda: keys_for(database))
        if is_writing() and (found := inspect(place)).snapshot.damage:
            # Before a lock is made beside it.
            found.accepted()
        # On a server a command that only reads waits for a migration, too.
        is_file = isinstance(place.location, Path)
        reads = is_file and not is_writing()
        session = opened(reading_url(place.location)) if reads else place.session()
        async with session as connection:
            await connection.run_sync(migrate_and_record if is_writing() else compare)
    except sa.exc.DBAPIError as error:
        if place is None or (known := place.translate(error)) is None:
            raise
        raise CommandError(f"{known} {known.remedy}") from error
    except TokenStorageError as error:
        raise CommandError(f"{error} {error.remedy}") from error


def main() -> None:
    """Write SQL, or use the given connection, or open the database."""
    connection = config.attributes.get("connection")
    if context.is_offline_mode():
        write_sql()
    elif connection is not None:
        migrate(connection)
    else:
        if config.cmd_opts is not None and config.config_file_name is not None:
            # Only Alembic's command line: in other processes this would disable loggers.
            fileConfig(config.config_file_name, disable_existing_loggers=False)
        from nextcloud_mcp_server.concurrency import run_in_own_loop  # noqa: PLC0415

        run_in_own_loop(lambda: asyncio.run(run_on_own_connection()))


main()
