"""What ``recreate_table`` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.util import CommandError

from tests.migrations.database import Database
from tests.migrations.test_recreate import SESSIONS, revised


@pytest.mark.parametrize(
    ("before", "body", "told"),
    [
        ("DROP TABLE notes", 'sa.Column("a", sa.Text())', r"notes.*not there"),
        ("", 'sa.Column("b", sa.Text(), nullable=False)', r"notes lacks.*\bb\b.*values"),
        ("", 'sa.Column("b", sa.Text()), drop=["b"]', r"notes cannot have b so"),
        ("", 'sa.Column("b", sa.Text()), values={"c": "1"}', r"notes cannot have c so"),
        (
            "CREATE VIEW needs AS SELECT a, k FROM notes",
            'sa.Column("k", sa.Text()), drop=["a"]',
            r"needs",
        ),
    ],
)
async def test_what_cannot_be_is_refused(
    database: Database, scripts: Path, before: str, body: str, told: str
) -> None:
    """A missing table, a row without a value, a contradiction, a view: nothing was changed."""
    await database.upgrade("101")
    await database.execute("CREATE TABLE notes (a TEXT, k TEXT)", *filter(None, [before]))
    catalogue = await database.catalogue()
    call = f'op.get_context().opts["guards"].recreate_table("notes", {body})'
    revised(database, scripts, f"\ndef upgrade():\n    {call}\n")
    with pytest.raises(Exception, match=told):
        await database.upgrade()
    assert await database.catalogue() == catalogue


async def test_a_trigger_that_needs_a_dropped_column_stops_it(
    sqlite: Database, scripts: Path
) -> None:
    """It could be made again, and would fail at the next delete."""
    await sqlite.upgrade("101")
    await sqlite.execute(
        "CREATE TABLE notes (a TEXT, k TEXT)",
        "CREATE TRIGGER needs AFTER DELETE ON notes BEGIN UPDATE notes SET k = old.a; END",
    )
    body = 'recreate_table("notes", sa.Column("k", sa.Text()), drop=["a"])'
    revised(sqlite, scripts, f'\ndef upgrade():\n    op.get_context().opts["guards"].{body}\n')
    with pytest.raises(CommandError, match=r"a of notes cannot be dropped: .*needs"):
        await sqlite.upgrade()
    assert len((await sqlite.shape())["notes"].columns) == 2


async def test_a_view_that_is_broken_already_stops_nothing(sqlite: Database, scripts: Path) -> None:
    """What an operator left broken was so before; an index on a dropped column goes with it."""
    await sqlite.upgrade("101")
    await sqlite.execute(
        "CREATE TABLE notes (a TEXT, k TEXT, UNIQUE (a, k))",
        "CREATE INDEX on_a ON notes (a)",
        "CREATE INDEX on_k ON notes (k)",
        "CREATE VIEW broken AS SELECT * FROM nowhere",
    )
    body = 'recreate_table("notes", sa.Column("k", sa.Text()), drop=["A"])'
    revised(sqlite, scripts, f'\ndef upgrade():\n    op.get_context().opts["guards"].{body}\n')
    await sqlite.upgrade()
    table = (await sqlite.shape())["notes"]
    assert [column.name for column in table.columns] == ["k"]
    assert table.uniques == ()
    assert table.indexes == (("on_k", ("k",)),)


async def test_offline_it_is_refused(database: Database, scripts: Path) -> None:
    """Without a connection it cannot know the table; the error says why and what to write."""
    revised(database, scripts, SESSIONS)
    refused = r"recreate_table: browser_sessions .* --sql has no connection.* INSERT \.\.\. SELECT"
    with pytest.raises(CommandError, match=refused):
        await database.offline("upgrade", "101:102")
