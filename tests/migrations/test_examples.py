"""The documented examples and the template."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from alembic import command

from nextcloud_mcp_server import migrations
from tests.migrations import facts
from tests.migrations.database import Database, columns_of, configuration
from tests.migrations.rows import seed
from tests.support.scripts import add_revision, used

ADD_A_TABLE = '''
def upgrade() -> None:
    """Add user preferences table."""
    op.execute("""
CREATE TABLE user_preferences (
user_id TEXT PRIMARY KEY,
theme TEXT DEFAULT 'light',
language TEXT DEFAULT 'en',
created_at INTEGER NOT NULL
)
""")
    op.execute("""
CREATE INDEX idx_user_preferences_user_id
ON user_preferences(user_id)
""")

def downgrade() -> None:
    """Remove user preferences table."""
    op.execute("DROP INDEX IF EXISTS idx_user_preferences_user_id")
    op.execute("DROP TABLE IF EXISTS user_preferences")
'''

RECREATE_A_TABLE = '''
def upgrade() -> None:
    # Create new table with desired schema
    op.execute("""
CREATE TABLE refresh_tokens_new (
user_id TEXT PRIMARY KEY,
encrypted_token BLOB NOT NULL,
new_field TEXT, -- New column
expires_at INTEGER,
created_at INTEGER NOT NULL
)
""")
    # Copy data from old table
    op.execute("""
INSERT INTO refresh_tokens_new
(user_id, encrypted_token, expires_at, created_at)
SELECT user_id, encrypted_token, expires_at, created_at
FROM refresh_tokens
""")
    # Drop old table and rename new table
    op.execute("DROP TABLE refresh_tokens")
    op.execute("ALTER TABLE refresh_tokens_new RENAME TO refresh_tokens")
    # Recreate indexes
    op.execute("CREATE INDEX idx_user_id ON refresh_tokens(user_id)")

def downgrade() -> None:
    pass
'''


async def test_the_example_that_adds_a_table_runs(database: Database, scripts: Path) -> None:
    """The upgrade and the downgrade run on both engines, and leave nothing behind."""
    add_revision(scripts, ADD_A_TABLE, "102", "101")
    await database.upgrade("101")
    catalogue = await database.catalogue()
    database.scripts = scripts
    await database.upgrade()
    assert columns_of(await database.shape())["user_preferences"] == [
        "user_id",
        "theme",
        "language",
        "created_at",
    ]
    await database.downgrade("101")
    assert await database.catalogue() == catalogue


async def test_the_example_that_recreates_a_table_keeps_the_rows(
    sqlite: Database, scripts: Path
) -> None:
    """Every grant is unchanged in the copied columns."""
    add_revision(scripts, ADD_A_TABLE, "102", "101")
    add_revision(scripts, RECREATE_A_TABLE, "103", "102")
    await sqlite.upgrade("101")
    await sqlite.insert(seed("101", "portable", before=False))
    kept = {"refresh_tokens": ["user_id", "encrypted_token", "expires_at", "created_at"]}
    rows = await sqlite.rows(kept)
    sqlite.scripts = scripts
    await sqlite.upgrade()
    assert await sqlite.rows(kept) == rows
    table = (await sqlite.shape())["refresh_tokens"]
    assert [column.name for column in table.columns][2] == "new_field"
    assert table.indexes == (("idx_user_id", ("user_id",)),)


async def test_the_same_example_runs_in_the_program(
    sqlite: Database, scripts: Path, tmp_path: Path
) -> None:
    """The program runs it with an operator's view and trigger on the table."""
    await sqlite.upgrade("101")
    await sqlite.insert(seed("101", "portable", before=False))
    await sqlite.execute(
        "CREATE VIEW op_view AS SELECT user_id FROM refresh_tokens",
        "CREATE TRIGGER op_trigger AFTER DELETE ON refresh_tokens BEGIN SELECT 1; END",
    )
    add_revision(scripts, RECREATE_A_TABLE, "102", "101")
    with used(scripts):
        assert migrations.upgrade_database(tmp_path / "tokens.db").after == "102"
    assert await sqlite.query("SELECT count(*) FROM op_view") == [(3,)]
    assert {"op_trigger", "idx_user_id"} <= {name for _, name, *_ in await sqlite.catalogue()}


async def test_a_new_revision_from_the_template_runs_at_once(
    database: Database, scripts: Path
) -> None:
    """It changes nothing, and has marks for the parts to fill in."""
    config = configuration(scripts)
    config.set_main_option(
        "file_template",
        "%%(year)d%%(month).2d%%(day).2d_%%(hour).2d%%(minute).2d_%%(rev)s_%%(slug)s",
    )
    command.revision(config, "add user preferences table", rev_id="102")
    (path,) = (scripts / "versions").glob("*_102_*.py")
    match = re.fullmatch(r"(\d{8}_\d{4})_102_add_user_preferences_table\.py", path.name)
    assert match
    datetime.strptime(match[1], "%Y%m%d_%H%M").astimezone()
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""add user preferences table.\n')
    assert text.count("\nDowngrade loses: ") == 1

    database.scripts = scripts
    await database.upgrade()
    assert await database.revision() == "102"
    assert await database.shape() == facts.tables("101", database.lineage)
    await database.downgrade("101")
    assert await database.revision() == "101"


async def test_the_examples_in_the_template_are_those_that_run(
    database: Database, scripts: Path
) -> None:
    """The guards in the comments of the template run up, up again and down."""
    template = (scripts / "script.py.mako").read_text(encoding="utf-8")
    above, below = template.split("def downgrade()")
    call = re.compile(r"^ {4}# (guards.*(?:\n {4}#  .*|\n {4}# \))*)", re.MULTILINE)
    up, down = call.findall(above), call.findall(below)
    body = "\nimport sqlalchemy as sa\nfrom nextcloud_mcp_server.migrations import guards\n"
    for name, parts in (("upgrade", up), ("downgrade", down)):
        lines = "\n".join(parts).replace("\n    # ", "\n").splitlines()
        body += f"\ndef {name}():\n" + "".join(f"    {line}\n" for line in lines)
    add_revision(scripts, body, "102", "101")
    await database.upgrade("101")
    await database.insert(seed("101", database.lineage, before=False))
    database.scripts = scripts
    await database.upgrade()
    assert await database.query("SELECT count(new_field) FROM refresh_tokens") == [(3,)]
    assert "user_preferences" in await database.shape()
    assert columns_of(await database.shape())["refresh_tokens"][-1] == "new_field"
    catalogue = await database.catalogue()
    await database.run(("stamp", "101"), ("upgrade", "head"))
    assert await database.catalogue() == catalogue
    await database.downgrade("101")
    assert await database.shape() == facts.tables("101", database.lineage)
