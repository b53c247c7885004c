"""The guards."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.util import CommandError

from tests.migrations import facts
from tests.migrations.database import Database, columns_of
from tests.migrations.rows import seed


async def test_raw_sql_between_two_guards_is_detected(database: Database, scripts: Path) -> None:
    """After raw DDL a guard reads the names again, also in a later revision."""
    database.revise(
        scripts,
        """
def upgrade():
    guards = op.get_context().opts["guards"]
    guards.add_column("app_passwords", sa.Column("label", sa.Text()))
    guards.add_column("app_passwords", sa.Column("LABEL".lower(), sa.Text()))
    op.execute("CREATE TABLE plain (a TEXT)")
    guards.add_column("plain", sa.Column("a", sa.Text()))
    op.execute("ALTER TABLE plain ADD COLUMN b TEXT")
    guards.create_table("plain", sa.Column("b", sa.Text()), sa.Column("c", sa.Text()))


def downgrade():
    guards = op.get_context().opts["guards"]
    guards.drop_column("app_passwords", "label")
    guards.drop_column("app_passwords", "label")
    guards.drop_table("plain")
    guards.create_table("plain", sa.Column("z", sa.Text()))
    guards.drop_column("plain", "nothing")
    op.execute("-- not needed\\ndrop table plain")
    guards.create_table("plain", sa.Column("y", sa.Text()))
    guards.drop_index("no_such_index", "plain")
    guards.drop_column("no_such_table", "y")
    guards.drop_table("plain")
""",
    )
    database.revise(
        scripts,
        """
def upgrade():
    op.get_context().opts["guards"].add_column("plain", sa.Column("c", sa.Text()))


def downgrade():
    pass
""",
        "103",
    )
    await database.upgrade()
    assert columns_of(await database.shape())["plain"] == ["a", "b", "c"]
    assert columns_of(await database.shape())["app_passwords"][-1] == "label"
    await database.downgrade("101")
    assert await database.shape() == facts.tables("101", database.lineage)


@pytest.mark.parametrize(
    "index",
    [
        "CREATE INDEX op_plain ON app_passwords (username)",
        'CREATE INDEX "op quoted" ON app_passwords (user_id, "username")',
        "CREATE UNIQUE INDEX op_expression ON app_passwords (lower(username))",
        "CREATE INDEX op_partial ON app_passwords (updated_at) WHERE username IS NOT NULL",
    ],
)
async def test_an_index_on_a_dropped_column_goes_with_it(database: Database, index: str) -> None:
    """An operator's index does not stop a downgrade."""
    await database.upgrade("003")
    await database.execute(index)
    await database.downgrade("002")
    assert await database.shape() == facts.tables("002", database.lineage)


async def test_other_indexes_stay(sqlite: Database) -> None:
    """An index that does not use the column is kept, whatever its name."""
    await sqlite.upgrade("003")
    await sqlite.execute(
        "CREATE INDEX username ON app_passwords (created_at)",
        "CREATE INDEX idx_username ON app_passwords (updated_at, user_id)",
    )
    await sqlite.downgrade("002")
    names = {name for name, _ in (await sqlite.shape())["app_passwords"].indexes}
    assert names == {"username", "idx_username", "idx_app_passwords_updated"}


async def test_a_view_on_a_dropped_column_stops_the_downgrade(database: Database) -> None:
    """A view on the column stops the downgrade, and nothing changes."""
    await database.upgrade("003")
    await database.execute("CREATE VIEW names AS SELECT username FROM app_passwords")
    with pytest.raises(Exception, match="names"):
        await database.downgrade("002")
    assert await database.revision() == "003"
    assert await database.shape() == facts.tables("003", database.lineage)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ('sa.Column("n", sa.Text(), nullable=False)', "n is required, and has no default"),
        ('sa.Column("n", sa.Text(), unique=True)', "use recreate_table for n"),
        ('sa.Column("n", sa.Text(), primary_key=True)', "use recreate_table for n"),
        ('sa.Column("n", sa.Text(), sa.ForeignKey("audit_logs.id"))', "use recreate_table for n"),
    ],
)
async def test_a_column_that_cannot_be_added_is_refused(
    database: Database, scripts: Path, column: str, message: str
) -> None:
    """The error names the remedy, on both engines, and nothing changes."""
    database.call_guard(scripts, f'add_column("app_passwords", {column})')
    with pytest.raises(CommandError, match=message):
        await database.upgrade()
    assert await database.shape() == {}


async def test_a_required_column_with_a_default_is_added(database: Database, scripts: Path) -> None:
    """Existing rows get the default, and a second run does not change them."""
    await database.upgrade("101")
    await database.insert(seed("101", database.lineage, before=False))
    column = 'sa.Column("n", sa.BigInteger(), nullable=False, server_default="7")'
    database.call_guard(scripts, f'add_column("app_passwords", {column})')
    await database.upgrade()
    await database.execute("UPDATE app_passwords SET n = 8")
    await database.run(("stamp", "101"), ("upgrade", "102"))
    assert set(await database.query("SELECT n FROM app_passwords")) == {(8,)}
    added = (await database.shape())["app_passwords"].columns[-1]
    assert (added.name, added.required) == ("n", True)


async def test_a_foreign_table_is_refused(database: Database) -> None:
    """A table without a required column is refused."""
    await database.execute("CREATE TABLE refresh_tokens (user_id TEXT PRIMARY KEY, note TEXT)")
    with pytest.raises(CommandError, match=r"refresh_tokens.*encrypted_token"):
        await database.upgrade()
    assert list(await database.shape()) == ["refresh_tokens"]


async def test_a_table_without_its_key_is_refused(sqlite: Database) -> None:
    """A table without its primary key is refused."""
    await sqlite.execute("CREATE TABLE schema_version (applied_at REAL NOT NULL)")
    with pytest.raises(CommandError, match=r"schema_version.*version"):
        await sqlite.upgrade()


async def test_a_virtual_table_without_its_module_is_ignored(sqlite: Database) -> None:
    """A virtual table whose module is missing is not read."""
    await sqlite.upgrade("002")
    await sqlite.execute(
        "PRAGMA writable_schema=ON",
        "INSERT INTO sqlite_master (type, name, tbl_name, rootpage, sql) VALUES ('table', 'op',"
        " 'op', 0, 'CREATE VIRTUAL TABLE op USING not_loaded_here(a)')",
    )
    await sqlite.upgrade("003")
    assert await sqlite.revision() == "003"
