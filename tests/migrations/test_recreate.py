"""``recreate_table``: other columns and constraints, without losses."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa

from tests.migrations import facts
from tests.migrations.database import Database, columns_of
from tests.migrations.rows import seed

#: Gives browser_sessions other types, constraints and defaults.
SESSIONS: Final = """
def upgrade():
    op.get_context().opts["guards"].recreate_table(
        "browser_sessions",
        sa.Column("session_id", sa.Text(), primary_key=True),
        sa.Column("user_id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Text()),
        sa.Column("expires_at", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("device", sa.Text(), nullable=False, server_default="none"),
        sa.Column("seen", sa.Text(), nullable=False),
        sa.UniqueConstraint("session_id", "user_id"),
        sa.CheckConstraint("expires_at > -100 AND user_id <> ':x %s'", name="ck_sessions_time"),
        sa.ForeignKeyConstraint(
            ["device"], ["app_passwords.user_id"], name="fk_sessions_device", initially="DEFERRED",
            deferrable=True,
        ),
        values={
            "device": "SELECT min(user_id) FROM app_passwords",
            "seen": "'at: ' || created_at || ' 100%'",
        },
    )


def downgrade():
    op.get_context().opts["guards"].recreate_table(
        "browser_sessions",
        sa.Column("session_id", sa.Text(), primary_key=True),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        drop=["device", "seen"],
    )
"""

#: Recreates a table with AUTOINCREMENT on SQLite and a sequence on PostgreSQL.
AUDIT: Final = """
def upgrade():
    op.get_context().opts["guards"].recreate_table(
        "audit_logs",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("timestamp", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False, server_default="unknown"),
        sa.Column("user_id", sa.Text()),
        sa.Column("resource_type", sa.Text()),
        sa.Column("resource_id", sa.Text()),
        sa.Column("auth_method", sa.Text()),
        sa.Column("hostname", sa.Text()),
        values={"event": "'seen ' || event"},
    )


def downgrade():
    pass
"""

OTHERS: Final = (
    "CREATE TABLE history (user_id TEXT)",
    "CREATE UNIQUE INDEX op_unique ON browser_sessions (lower(user_id), expires_at)",
    "CREATE INDEX op_partial ON browser_sessions (user_id) WHERE created_at IS NOT NULL",
    "CREATE VIEW op_view AS SELECT user_id, expires_at FROM browser_sessions",
    """CREATE TRIGGER op_trigger AFTER DELETE ON browser_sessions
    BEGIN INSERT INTO history VALUES (old.user_id); END""",
)


@pytest.fixture
async def recreating(database: Database, scripts: Path) -> Database:
    """Create a database at 101 with rows, and a revision 102 that recreates browser_sessions."""
    await database.upgrade("101")
    await database.insert(seed("101", database.lineage, before=False))
    database.revise(scripts, SESSIONS)
    return database


async def test_a_recreated_table_has_the_wanted_shape_and_every_row(recreating: Database) -> None:
    """Types, NOT NULL, defaults and constraints change, and the downgrade restores them."""
    columns = columns_of(facts.tables("101", recreating.lineage))
    rows, before = await recreating.rows(columns), await recreating.catalogue()
    await recreating.upgrade("102")
    table = (await recreating.shape())["browser_sessions"]
    types = {c.name: (c.type.lower(), c.required) for c in table.columns}
    assert types["created_at"] == ("text", False)
    assert types["device"] == types["seen"] == ("text", True)
    assert types["user_id"][0] in {"varchar(64)", "character varying(64)"}
    assert table.uniques == (("session_id", "user_id"),)
    assert [name for name, _ in table.indexes] == [
        "idx_browser_sessions_expires",
        "idx_browser_sessions_user",
    ]
    assert min(await recreating.query("SELECT seen FROM browser_sessions")) == ("at: -1 100%",)
    with pytest.raises(Exception, match="ck_sessions_time"):
        await recreating.execute("UPDATE browser_sessions SET expires_at = -1000")
    await recreating.downgrade("101")
    assert await recreating.shape() == facts.tables("101", recreating.lineage)
    assert await recreating.rows(columns) == rows
    assert await recreating.catalogue() == before


async def test_a_second_recreation_changes_nothing(recreating: Database, scripts: Path) -> None:
    """A table without differences is not touched, nor a column of a later revision."""
    recreating.revise(
        scripts,
        """
def upgrade():
    op.get_context().opts["guards"].add_column("browser_sessions", sa.Column("x", sa.Text()))
""",
        "103",
    )
    await recreating.upgrade("103")
    await recreating.execute("UPDATE browser_sessions SET seen = 'today'")
    catalogue = await recreating.catalogue()
    await recreating.run(("stamp", "101"), ("upgrade", "103"))
    assert await recreating.catalogue() == catalogue
    assert set(await recreating.query("SELECT seen FROM browser_sessions")) == {("today",)}


async def test_an_operators_additions_are_kept(recreating: Database) -> None:
    """Columns, constraints and indexes are kept, and on SQLite triggers and views."""
    unusual = "\"Odd, name\" TEXT DEFAULT 'a, (b' CHECK (\"Odd, name\" <> ') -- x')"
    await recreating.execute(
        *(OTHERS if recreating.is_sqlite else OTHERS[:3]),
        f"ALTER TABLE browser_sessions ADD COLUMN {unusual}",
        "ALTER TABLE browser_sessions ADD COLUMN fixed BIGINT NOT NULL DEFAULT 7",
        'CREATE INDEX op_odd ON browser_sessions ("Odd, name")',
        "UPDATE browser_sessions SET \"Odd, name\" = 'kept'",
    )
    before = {row[:2] for row in await recreating.catalogue() if "op_" in str(row)}
    assert len(before) == (5 if recreating.is_sqlite else 3)
    for go in (recreating.upgrade, recreating.downgrade):
        await go("102" if go == recreating.upgrade else "101")
        assert before <= {row[:2] for row in await recreating.catalogue()}
        assert await recreating.query('SELECT DISTINCT "Odd, name", fixed FROM browser_sessions')
        assert set(await recreating.query('SELECT "Odd, name", fixed FROM browser_sessions')) == {
            ("kept", 7)
        }
    with pytest.raises(Exception, match=r"(?i)check|constraint"):
        await recreating.execute("UPDATE browser_sessions SET \"Odd, name\" = ') -- x'")
    if recreating.is_sqlite:
        assert len(await recreating.query("SELECT * FROM op_view")) == 3
        await recreating.execute("DELETE FROM browser_sessions")
        assert len(await recreating.query("SELECT * FROM history")) == 3


async def test_a_constraint_of_a_surplus_column_is_kept(database: Database, scripts: Path) -> None:
    """A constraint that names a surplus column is kept; another one is dropped."""
    await database.upgrade("101")
    await database.execute(
        "CREATE TABLE notes (k TEXT, theirs TEXT, UNIQUE (k), UNIQUE (k, theirs))",
        "INSERT INTO notes VALUES ('k', 'x')",
    )
    database.call_guard(scripts, 'recreate_table("notes", sa.Column("k", sa.String(9)))')
    await database.upgrade()
    assert (await database.shape())["notes"].uniques == (("k", "theirs"),)
    assert await database.query("SELECT * FROM notes") == [("k", "x")]


async def test_autoincrement_is_kept(sqlite: Database, scripts: Path) -> None:
    """AUTOINCREMENT is kept, and no id of a deleted row is used again."""
    await sqlite.execute(*facts.raw_statements("006"))
    await sqlite.upgrade("101")
    insert = "INSERT INTO audit_logs (id, timestamp, event, user_id) VALUES (?, 1, 'e', 'u')"
    await sqlite.execute(insert.replace("?", "7"), insert.replace("?", "900"))
    await sqlite.execute("DELETE FROM audit_logs WHERE id = 900")
    sqlite.revise(scripts, AUDIT)
    await sqlite.upgrade()
    catalogue = await sqlite.catalogue()
    await sqlite.execute(insert.replace("?", "NULL"))
    assert await sqlite.query("SELECT id FROM audit_logs") == [(7,), (901,)]
    assert await sqlite.query("SELECT name, seq FROM sqlite_sequence") == [("audit_logs", 901)]
    await sqlite.run(("stamp", "101"), ("upgrade", "102"))
    assert await sqlite.catalogue() == catalogue


async def test_a_sequence_stays_on_postgresql(postgresql: Database, scripts: Path) -> None:
    """The sequence, a privilege and another table's foreign key are kept."""
    await postgresql.upgrade("101")
    insert = "INSERT INTO audit_logs (timestamp, event, user_id) VALUES (1, 'e', 'u')"
    await postgresql.execute(
        insert,
        insert,
        "CREATE TABLE notes (log INTEGER REFERENCES audit_logs)",
        "INSERT INTO notes VALUES (2)",
        "GRANT SELECT ON audit_logs TO PUBLIC",
    )
    granted = "SELECT relacl::text FROM pg_class WHERE oid = 'audit_logs'::regclass"
    before = await postgresql.query(granted)
    postgresql.revise(scripts, AUDIT)
    await postgresql.upgrade()
    await postgresql.execute("INSERT INTO audit_logs (timestamp) VALUES (1)")
    assert await postgresql.query("SELECT id, event FROM audit_logs WHERE id > 2") == [
        (3, "unknown")
    ]
    await postgresql.run(("stamp", "101"), ("upgrade", "102"))
    assert await postgresql.query("SELECT DISTINCT event FROM audit_logs WHERE id < 3") == [
        ("seen e",)
    ]
    assert await postgresql.query(granted) == before
    with pytest.raises(Exception, match="notes"):
        await postgresql.execute("DELETE FROM audit_logs")


async def test_rows_keep_their_number_and_their_place(sqlite: Database, scripts: Path) -> None:
    """A table with a text key keeps its rowids and the gaps in them."""
    await sqlite.upgrade("101")
    await sqlite.insert(seed("101", "portable", before=False))
    await sqlite.execute("UPDATE browser_sessions SET rowid = rowid * 10")
    before = await sqlite.query("SELECT rowid, session_id FROM browser_sessions")
    sqlite.revise(scripts, SESSIONS)
    await sqlite.upgrade()
    assert await sqlite.query("SELECT rowid, session_id FROM browser_sessions") == before
    assert before[-1][0] == 30


async def test_a_leftover_copy_is_kept(sqlite: Database, scripts: Path) -> None:
    """A leftover copy is kept; if the table is missing, the copy becomes the table."""
    await sqlite.upgrade("101")
    await sqlite.insert(seed("101", "portable", before=False))
    copy = "CREATE TABLE _alembic_tmp_browser_sessions AS SELECT * FROM browser_sessions"
    await sqlite.execute(copy)
    sqlite.revise(scripts, SESSIONS)
    await sqlite.upgrade()
    counting = "SELECT count(*) FROM {}browser_sessions"
    assert await sqlite.query(counting.format("_alembic_tmp_")) == [(3,)]
    assert await sqlite.query(counting.format("")) == [(3,)]
    await sqlite.execute(
        "DROP TABLE browser_sessions", "UPDATE alembic_version SET version_num=101"
    )
    await sqlite.upgrade()
    assert await sqlite.query(counting.format("")) == [(3,)]
    assert "_alembic_tmp_browser_sessions" not in await sqlite.shape()
    assert len((await sqlite.shape())["browser_sessions"].columns) == 6


@pytest.mark.parametrize("legacy", ["ON", "OFF"])
async def test_the_connection_keeps_its_pragma(
    sqlite: Database, scripts: Path, legacy: str
) -> None:
    """With any legacy_alter_table a view stops no recreation, and the pragma is restored."""
    found = []

    def after(connection: sa.Connection) -> None:
        found.append(connection.exec_driver_sql("PRAGMA legacy_alter_table").scalar())

    sa.event.listen(
        sqlite.engine.sync_engine,
        "begin",
        lambda c: c.exec_driver_sql(f"PRAGMA legacy_alter_table={legacy}"),
    )
    sa.event.listen(sqlite.engine.sync_engine, "commit", after)
    await sqlite.upgrade("101")
    await sqlite.execute(*OTHERS)
    sqlite.revise(scripts, SESSIONS)
    await sqlite.upgrade()
    await sqlite.downgrade("101")
    assert set(found) == {legacy == "ON"}


async def test_an_unusual_table_is_kept(sqlite: Database, scripts: Path) -> None:
    """WITHOUT ROWID, a generated column and a column named rowid are kept."""
    await sqlite.upgrade("101")
    await sqlite.execute(
        "CREATE TABLE notes (k TEXT PRIMARY KEY, rowid TEXT, loud TEXT AS (rowid || '!'))"
        " WITHOUT ROWID",
        "INSERT INTO notes VALUES ('k', 'r')",
    )
    sqlite.call_guard(
        scripts, 'recreate_table("notes", sa.Column("K", sa.String(9), primary_key=True))'
    )
    await sqlite.upgrade()
    assert await sqlite.query("SELECT * FROM notes") == [("k", "r", "r!")]
    (sql,) = (row[3] for row in await sqlite.catalogue() if row[1] == "notes")
    assert "VARCHAR(9)" in sql
    assert sql.endswith("WITHOUT ROWID")
