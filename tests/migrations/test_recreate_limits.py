"""What ``recreate_table`` refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.util import CommandError

from tests.migrations.database import Database
from tests.migrations.test_recreate import SESSIONS


@pytest.mark.parametrize(
    ("before", "body", "message"),
    [
        ("DROP TABLE notes", 'sa.Column("a", sa.Text())', r"notes.*does not exist"),
        ("", 'sa.Column("b", sa.Text(), nullable=False)', r"notes lacks.*\bb\b.*values"),
        ("", 'sa.Column("b", sa.Text()), drop=["b"]', r"b of notes must be in elements"),
        ("", 'sa.Column("b", sa.Text()), values={"c": "1"}', r"c of notes must be in elements"),
        (
            "CREATE VIEW needs AS SELECT a, k FROM notes",
            'sa.Column("k", sa.Text()), drop=["a"]',
            r"needs",
        ),
    ],
)
async def test_an_impossible_change_is_refused(
    database: Database, scripts: Path, before: str, body: str, message: str
) -> None:
    """After an error nothing has changed."""
    await database.upgrade("101")
    await database.execute("CREATE TABLE notes (a TEXT, k TEXT)", *filter(None, [before]))
    catalogue = await database.catalogue()
    database.call_guard(scripts, f'recreate_table("notes", {body})')
    with pytest.raises(Exception, match=message):
        await database.upgrade()
    assert await database.catalogue() == catalogue


async def test_a_trigger_that_needs_a_dropped_column_stops_it(
    sqlite: Database, scripts: Path
) -> None:
    """A trigger that needs a dropped column is an error."""
    await sqlite.upgrade("101")
    await sqlite.execute(
        "CREATE TABLE notes (a TEXT, k TEXT)",
        "CREATE TRIGGER needs AFTER DELETE ON notes BEGIN UPDATE notes SET k = old.a; END",
    )
    sqlite.call_guard(scripts, 'recreate_table("notes", sa.Column("k", sa.Text()), drop=["a"])')
    with pytest.raises(CommandError, match=r"a of notes cannot be dropped: .*needs"):
        await sqlite.upgrade()
    assert len((await sqlite.shape())["notes"].columns) == 2


async def test_a_view_that_is_broken_already_stops_nothing(sqlite: Database, scripts: Path) -> None:
    """A view that was broken before is no error; an index on a dropped column is dropped."""
    await sqlite.upgrade("101")
    await sqlite.execute(
        "CREATE TABLE notes (a TEXT, k TEXT, UNIQUE (a, k))",
        "CREATE INDEX on_a ON notes (a)",
        "CREATE INDEX on_k ON notes (k)",
        "CREATE VIEW broken AS SELECT * FROM nowhere",
    )
    sqlite.call_guard(scripts, 'recreate_table("notes", sa.Column("k", sa.Text()), drop=["A"])')
    await sqlite.upgrade()
    table = (await sqlite.shape())["notes"]
    assert [column.name for column in table.columns] == ["k"]
    assert table.uniques == ()
    assert table.indexes == (("on_k", ("k",)),)


async def test_offline_it_is_refused(database: Database, scripts: Path) -> None:
    """Without a connection it is refused; the error gives the reason and an alternative."""
    database.revise(scripts, SESSIONS)
    refused = r"recreate_table: browser_sessions .* --sql has no connection.* INSERT \.\.\. SELECT"
    with pytest.raises(CommandError, match=refused):
        await database.offline("upgrade", "101:102")
