"""A database under test, on SQLite or PostgreSQL."""

from __future__ import annotations

import io
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tests.migrations import facts, shapes
from tests.support.scripts import SCRIPTS, add_revision

ROOT: Final = Path(__file__).resolve().parents[2]

Row = tuple[Any, ...]
Rows = dict[str, list[dict[str, Any]]]


def configuration(scripts: Path = SCRIPTS, **x: str) -> Config:
    """Create the program's configuration of Alembic: no file, no URL."""
    config = Config(
        output_buffer=io.StringIO(),
        stdout=io.StringIO(),
        cmd_opts=Namespace(x=[f"{name}={value}" for name, value in x.items()]),
    )
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


class Database:
    """An asynchronous engine that runs migrations as the program does.

    Attributes:
        lineage: the notation of the facts that its new tables have.
    """

    def __init__(self, engine: AsyncEngine, lineage: facts.Lineage) -> None:
        self.engine = engine
        self.lineage = lineage
        self.scripts = SCRIPTS

    @property
    def is_sqlite(self) -> bool:
        """Whether the engine is SQLite."""
        return self.engine.dialect.name == "sqlite"

    def revise(self, scripts: Path, body: str, number: str = "102") -> None:
        """Use ``scripts`` with one more revision, above the previous number."""
        body = f"import sqlalchemy as sa\n{body}"
        self.scripts = add_revision(scripts, body, number, f"{int(number) - 1}").parents[1]

    def call_guard(self, scripts: Path, call: str) -> None:
        """Use ``scripts`` with a revision 102 whose upgrade() calls a guard."""
        self.revise(scripts, f'def upgrade():\n    op.get_context().opts["guards"].{call}\n')

    async def run(self, *steps: tuple[str, str]) -> None:
        """Run commands of Alembic (name, revision) in one transaction, and commit it."""

        def go(connection: sa.Connection) -> None:
            for name, revision in steps:
                config = configuration(self.scripts)
                config.attributes["connection"] = connection
                getattr(command, name)(config, revision)

        async with self.engine.begin() as connection:
            await connection.run_sync(go)

    async def upgrade(self, revision: str = "head") -> None:
        """Upgrade to ``revision``; nothing for base."""
        if revision != "base":
            await self.run(("upgrade", revision))

    async def downgrade(self, revision: str) -> None:
        """Downgrade to ``revision``."""
        await self.run(("downgrade", revision))

    async def stamp(self, revision: str) -> None:
        """Write ``revision`` into the version table."""
        await self.run(("stamp", revision))

    async def execute(self, *statements: str) -> None:
        """Execute statements in one transaction."""
        async with self.engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def query(self, statement: str) -> list[Row]:
        """Return every row of ``statement``."""
        async with self.engine.begin() as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(statement)]

    async def revision(self) -> str | None:
        """Return the revision in the version table."""
        rows = await self.query("SELECT version_num FROM alembic_version")
        assert len(rows) <= 1, rows
        return rows[0][0] if rows else None

    async def shape(self) -> dict[str, facts.Table]:
        """Return every table except Alembic's, in the notation of the facts."""
        read = shapes.sqlite_tables if self.is_sqlite else shapes.postgresql_tables
        async with self.engine.begin() as connection:
            return await connection.run_sync(read)

    async def catalogue(self) -> list[Row]:
        """Return the engine's catalogue, for an exact comparison."""
        question = shapes.SQLITE_CATALOGUE if self.is_sqlite else shapes.POSTGRESQL_CATALOGUE
        return [
            tuple(_unspaced(cell) if isinstance(cell, str) else cell for cell in row)
            for row in await self.query(question)
        ]

    async def insert(self, rows: Rows) -> None:
        """Insert rows into tables."""
        async with self.engine.begin() as connection:
            for table, members in rows.items():
                for row in members:
                    target = sa.table(table, *(sa.column(name) for name in row))
                    await connection.execute(target.insert().values(row))

    async def rows(self, tables: Mapping[str, Iterable[str]]) -> dict[str, list[Row]]:
        """Return the contents of columns, with the storage classes of SQLite."""
        contents = {}
        for table, columns in tables.items():
            cells = [f'"{name}"' for name in columns]
            if self.is_sqlite:
                cells += [f"typeof({name})" for name in cells]
            statement = f"SELECT {', '.join(cells)} FROM {table}"
            contents[table] = sorted(await self.query(statement), key=repr)
        return contents

    async def offline(self, name: str, steps: str) -> str:
        """Return the SQL of ``name`` (upgrade, downgrade) for ``from:to``."""
        config = configuration(self.scripts, database_url=f"{self.engine.dialect.name}://")
        getattr(command, name)(config, steps, sql=True)
        assert isinstance(config.output_buffer, io.StringIO)
        return config.output_buffer.getvalue()

    async def script(self, sql: str) -> None:
        """Execute a file of SQL statement by statement, like the engine's shell."""
        async with self.engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            if self.is_sqlite:
                await raw.executescript(sql)
            else:
                await raw.set_autocommit(True)
                await raw.execute(sql)


def _unspaced(text: str) -> str:
    """Return ``text`` without line breaks, and without the quotes that a rename adds."""
    return re.sub(r'^(CREATE TABLE )"(\w+)"', r"\1\2", " ".join(text.split()))


def sqlite_engine(path: Path, *pragmas: str) -> AsyncEngine:
    """Create an engine that begins each transaction with BEGIN IMMEDIATE."""
    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=str(path)), poolclass=NullPool
    )

    @sa.event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("synchronous=OFF", *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def columns_of(tables: Mapping[str, facts.Table]) -> dict[str, list[str]]:
    """Return the names of the columns of each table."""
    return {name: [column.name for column in table.columns] for name, table in tables.items()}
