"""The declared tables equal the result of the migrations, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from nextcloud_mcp_server.schema.tables import metadata
from tests.migrations.database import Database
from tests.support.schema_diff import Facts, drift, facts


def copied() -> sa.MetaData:
    """Copy the declared tables."""
    copy = sa.MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(copy)
    return copy


def column(table: str, name: str, **changes: object) -> Callable[[sa.MetaData], None]:
    """Build a function that changes attributes of a column."""

    def change(copy: sa.MetaData) -> None:
        for attribute, value in changes.items():
            setattr(copy.tables[table].columns[name], attribute, value)

    return change


def without_unique(copy: sa.MetaData) -> None:
    """Remove the unique constraint of the clients."""
    constraints = copy.tables["oauth_clients"].constraints
    constraints -= {c for c in constraints if isinstance(c, sa.UniqueConstraint)}


#: Changes of the declared tables, and the expected report of each.
DECLARED: Final[list[tuple[Callable[[sa.MetaData], object], str]]] = [
    (
        lambda copy: copy.tables["app_passwords"].append_column(sa.Column("label", sa.Text)),
        "only in schema.py: column app_passwords.label",
    ),
    (
        lambda copy: sa.Table("notes", copy, sa.Column("id", sa.Integer)),
        "only in schema.py: table notes",
    ),
    (column("audit_logs", "event", type=sa.Float()), "column audit_logs.event is"),
    (column("audit_logs", "event", nullable=True), "column audit_logs.event is"),
    (
        column("refresh_tokens", "flow_type", server_default=sa.DefaultClause("code")),
        "column refresh_tokens.flow_type is",
    ),
    (column("refresh_tokens", "flow_type", server_default=None), "flow_type is"),
    (
        lambda copy: copy.tables["audit_logs"].indexes.clear(),
        "only in the database: index idx_audit_user_timestamp",
    ),
    (without_unique, "only in the database: unique oauth_clients(client_id)"),
    (
        lambda copy: copy.tables["app_passwords"].append_constraint(
            sa.ForeignKeyConstraint(["user_id"], ["refresh_tokens.user_id"])
        ),
        "only in schema.py: foreign key app_passwords(user_id)",
    ),
    (
        lambda copy: copy.tables["app_passwords"].append_constraint(
            sa.CheckConstraint("created_at > 0")
        ),
        "only in schema.py: check of app_passwords",
    ),
]

#: Statements on a migrated database, and the expected report of each.
MADE: Final = [
    ("ALTER TABLE app_passwords ADD COLUMN label TEXT", "only in the database: column"),
    ("ALTER TABLE app_passwords DROP COLUMN username", "only in schema.py: column"),
    ("CREATE TABLE notes (id INTEGER PRIMARY KEY)", "only in the database: table notes"),
    ("DROP TABLE batch_ocr_jobs", "only in schema.py: table batch_ocr_jobs"),
    ("CREATE INDEX more ON app_passwords (scopes)", "only in the database: index more"),
    ("DROP INDEX idx_audit_user_timestamp", "only in schema.py: index"),
    (
        """DROP INDEX idx_audit_user_timestamp;
        CREATE UNIQUE INDEX idx_audit_user_timestamp ON audit_logs (user_id, timestamp)""",
        "index idx_audit_user_timestamp is",
    ),
    (
        """DROP INDEX idx_audit_user_timestamp;
        CREATE INDEX idx_audit_user_timestamp ON audit_logs (timestamp, user_id)""",
        "index idx_audit_user_timestamp is",
    ),
]


async def declared(database: Database, tables: sa.MetaData) -> Facts:
    """Return the facts of an empty database with ``tables``, and roll back."""
    wanted = [
        table
        for table in tables.sorted_tables
        if database.is_sqlite or not table.info.get("sqlite_only")
    ]
    async with database.engine.connect() as connection, connection.begin() as transaction:
        await connection.run_sync(lambda c: tables.create_all(c, wanted, checkfirst=False))
        found = await connection.run_sync(facts)
        await transaction.rollback()
    return found


async def made(database: Database, statements: str = "") -> Facts:
    """Return the facts of the database after ``statements``, and roll back."""
    async with database.engine.connect() as connection, connection.begin() as transaction:
        for statement in filter(None, statements.split(";")):
            await connection.exec_driver_sql(statement)
        found = await connection.run_sync(facts)
        await transaction.rollback()
    return found


async def test_head_is_what_the_schema_declares(database: Database) -> None:
    """Tables, columns, types, nullability, defaults, keys, uniques and indexes are equal."""
    wanted = await declared(database, metadata)
    await database.upgrade()
    assert drift(wanted, await made(database)) == []
    assert len(wanted) > 100


async def test_a_change_of_the_declared_tables_is_reported(database: Database) -> None:
    """Each difference that only the declared tables have is reported."""
    changed = []
    for change, report in DECLARED:
        copy = copied()
        change(copy)
        changed.append((await declared(database, copy), report))
    await database.upgrade()
    found = await made(database)
    for wanted, report in changed:
        assert report in "\n".join(drift(wanted, found)), report


async def test_a_change_of_the_database_is_reported(database: Database) -> None:
    """Each difference that only the database has is reported."""
    wanted = await declared(database, metadata)
    await database.upgrade()
    for statements, report in MADE:
        assert report in "\n".join(drift(wanted, await made(database, statements))), statements
