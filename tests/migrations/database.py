"""A database under test: the same questions to SQLite and PostgreSQL."""

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

ROOT: Final = Path(__file__).resolve().parents[2]
SCRIPTS: Final = ROOT / "alembic"

Row = tuple[Any, ...]
Rows = dict[str, list[dict[str, Any]]]


def configuration(scripts: Path = SCRIPTS, **x: str) -> Config:
    """Alembic's configuration as the program makes it: no file, no URL."""
    config = Config(
        output_buffer=io.StringIO(),
        stdout=io.StringIO(),
        cmd_opts=Namespace(x=[f"{name}={value}" for name, value in x.items()]),
    )
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


class Database:
    """An asynchronous engine whose migrations run as the program runs them.

    Attributes:
        lineage: the notation of the facts that its new tables have.
    """

    def __init__(self, engine: AsyncEngine, lineage: facts.Lineage) -> None:
        self.engine = engine
        self.lineage = lineage
        self.scripts = SCRIPTS

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite, whose own questions differ."""
        return self.engine.dialect.name == "sqlite"

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
        """Write ``revision`` into the version table, whatever the tables are."""
        await self.run(("stamp", revision))

    async def execute(self, *statements: str) -> None:
        """Execute statements in one transaction."""
        async with self.engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def query(self, statement: str) -> list[Row]:
        """Every row that ``statement`` returns."""
        async with self.engine.begin() as connection:
            return [tuple(row) for row in await connection.exec_driver_sql(statement)]

    async def revision(self) -> str | None:
        """What the version table holds."""
        rows = await self.query("SELECT version_num FROM alembic_version")
        assert len(rows) <= 1, rows
        return rows[0][0] if rows else None

    async def shape(self) -> dict[str, facts.Table]:
        """Every table but Alembic's, as the facts describe it."""
        read = shapes.sqlite_tables if self.is_sqlite else shapes.postgresql_tables
        async with self.engine.begin() as connection:
            return await connection.run_sync(read)

    async def catalogue(self) -> list[Row]:
        """Everything that the engine's own catalogue says, for a comparison to the letter."""
        question = shapes.SQLITE_CATALOGUE if self.is_sqlite else shapes.POSTGRESQL_CATALOGUE
        return [
            tuple(_unspaced(cell) if isinstance(cell, str) else cell for cell in row)
            for row in await self.query(question)
        ]

    async def insert(self, rows: Rows) -> None:
        """Insert rows into tables, as given."""
        async with self.engine.begin() as connection:
            for table, members in rows.items():
                for row in members:
                    target = sa.table(table, *(sa.column(name) for name in row))
                    await connection.execute(target.insert().values(row))

    async def rows(self, tables: Mapping[str, Iterable[str]]) -> dict[str, list[Row]]:
        """The contents of columns of tables, with SQLite's storage classes."""
        contents = {}
        for table, columns in tables.items():
            cells = list(columns)
            if self.is_sqlite:
                cells += [f"typeof({name})" for name in columns]
            statement = f"SELECT {', '.join(cells)} FROM {table}"
            contents[table] = sorted(await self.query(statement), key=repr)
        return contents

    async def offline(self, name: str, steps: str) -> str:
        """The SQL that ``name`` (upgrade, downgrade) writes for ``from:to``."""
        config = configuration(self.scripts, database_url=f"{self.engine.dialect.name}://")
        getattr(command, name)(config, steps, sql=True)
        assert isinstance(config.output_buffer, io.StringIO)
        return config.output_buffer.getvalue()

    async def script(self, sql: str) -> None:
        """Execute a file of SQL as the engine's own shell does: statement by statement."""
        async with self.engine.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            if self.is_sqlite:
                await raw.executescript(sql)
            else:
                await raw.set_autocommit(True)
                await raw.execute(sql)


def _unspaced(text: str) -> str:
    """``text`` without line breaks, and as if SQLite quoted no name when it renames a table."""
    return re.sub(r'^(CREATE TABLE )"(\w+)"', r"\1\2", " ".join(text.split()))


def sqlite_engine(path: Path, *pragmas: str) -> AsyncEngine:
    """An engine that begins each transaction for writing, and nothing by itself."""
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
    """The names of the columns of each table."""
    return {name: [column.name for column in table.columns] for name, table in tables.items()}
