"""schema.py and the migrations say the same, in both directions, on both engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from nextcloud_mcp_server.schema.tables import metadata
from tests.migrations.database import Database
from tests.support.schema_diff import Facts, drift, facts


def copied() -> sa.MetaData:
    """The tables of schema.py, to be changed."""
    copy = sa.MetaData()
    for table in metadata.sorted_tables:
        table.to_metadata(copy)
    return copy


def declaration(table: str, column: str, **changes: object) -> Callable[[sa.MetaData], None]:
    """Change an attribute of a column in a copy of schema.py."""

    def change(copy: sa.MetaData) -> None:
        for name, value in changes.items():
            setattr(copy.tables[table].columns[column], name, value)

    return change


def add_column(copy: sa.MetaData) -> None:
    """Declare one column more."""
    copy.tables["app_passwords"].append_column(sa.Column("label", sa.Text))


def add_table(copy: sa.MetaData) -> None:
    """Declare one table more."""
    sa.Table("notes", copy, sa.Column("id", sa.Integer, primary_key=True))


def forget_index(copy: sa.MetaData) -> None:
    """Declare no index on the audit log."""
    copy.tables["audit_logs"].indexes.clear()


def forget_unique(copy: sa.MetaData) -> None:
    """Declare no unique constraint of the clients."""
    constraints = copy.tables["oauth_clients"].constraints
    constraints -= {c for c in constraints if isinstance(c, sa.UniqueConstraint)}


def add_reference(copy: sa.MetaData) -> None:
    """Declare a foreign key that no migration makes."""
    key = sa.ForeignKeyConstraint(["user_id"], ["refresh_tokens.user_id"])
    copy.tables["app_passwords"].append_constraint(key)


def add_check(copy: sa.MetaData) -> None:
    """Declare a check that no migration makes."""
    copy.tables["app_passwords"].append_constraint(sa.CheckConstraint("created_at > 0"))


#: Changes of schema.py, and how the check tells each.
DECLARED: Final[list[tuple[Callable[[sa.MetaData], None], str]]] = [
    (add_column, "only in schema.py: column app_passwords.label"),
    (add_table, "only in schema.py: table notes"),
    (declaration("audit_logs", "event", type=sa.Float()), "column audit_logs.event is"),
    (declaration("audit_logs", "event", nullable=True), "column audit_logs.event is"),
    (
        declaration("refresh_tokens", "flow_type", server_default=sa.DefaultClause("code")),
        "column refresh_tokens.flow_type is",
    ),
    (declaration("refresh_tokens", "flow_type", server_default=None), "flow_type is"),
    (forget_index, "only in the database: index idx_audit_user_timestamp"),
    (forget_unique, "only in the database: unique oauth_clients(client_id)"),
    (add_reference, "only in schema.py: foreign key app_passwords(user_id)"),
    (add_check, "only in schema.py: check of app_passwords"),
]

#: Statements to a migrated database, and how the check tells each.
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
    """What an empty database holds when ``tables`` are made in it; nothing stays."""
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
    """What the database holds after ``statements``, which are undone."""
    async with database.engine.connect() as connection, connection.begin() as transaction:
        for statement in filter(None, statements.split(";")):
            await connection.exec_driver_sql(statement)
        found = await connection.run_sync(facts)
        await transaction.rollback()
    return found


async def test_head_is_what_the_schema_declares(database: Database) -> None:
    """Tables, columns, types, nullability, defaults, keys, uniques and indexes are the same."""
    wanted = await declared(database, metadata)
    await database.upgrade()
    assert drift(wanted, await made(database)) == []
    assert len(wanted) > 100


async def test_a_drift_of_the_schema_is_told(database: Database) -> None:
    """Whatever is declared otherwise, and made by no migration, is named."""
    changed = []
    for change, told in DECLARED:
        copy = copied()
        change(copy)
        changed.append((await declared(database, copy), told))
    await database.upgrade()
    there = await made(database)
    for wanted, told in changed:
        assert told in "\n".join(drift(wanted, there)), told


async def test_a_drift_of_the_migrations_is_told(database: Database) -> None:
    """Whatever a migration makes otherwise, and nobody declares, is named."""
    wanted = await declared(database, metadata)
    await database.upgrade()
    for statements, told in MADE:
        assert told in "\n".join(drift(wanted, await made(database, statements))), statements
