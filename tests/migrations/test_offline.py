"""``--sql``: the statements do what the migration does."""

from __future__ import annotations

import pytest
from alembic.util import CommandError

from tests.migrations import facts
from tests.migrations.database import Database, columns_of
from tests.migrations.facts import REVISIONS
from tests.migrations.rows import seed
from tests.migrations.walk_report import Walk
from tests.support import revisions
from tests.support.revisions import NOT_DOWN_IN_SQL, NOT_IN_SQL, SQL_HEAD


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
async def test_the_sql_of_a_step_does_what_the_step_does(
    database: Database, direction: str, revision: str, walk: Walk
) -> None:
    """The statements have the same result as the migration, including the rows."""
    if revision in NOT_IN_SQL or (direction == "downgrade" and revision in NOT_DOWN_IN_SQL):
        pytest.skip("it reads rows or tables, so --sql refuses it")
    before = facts.previous(revision)
    start, end = (before, revision) if direction == "upgrade" else (revision, before)
    walk.begins(start, end, "SQL up" if direction == "upgrade" else "SQL down")
    await database.upgrade(start)
    rows = seed(start, database.lineage)
    await database.insert(rows)
    await database.script(await database.offline(direction, f"{start}:{end}"))

    shape, catalogue = await database.shape(), await database.catalogue()
    kept = columns_of(shape)
    contents = await database.rows(kept)
    assert await database.revision() == (None if end == "base" else end)
    assert shape == facts.tables(end, database.lineage)

    await database.downgrade("base")
    await database.upgrade(start)
    await database.insert(rows)
    await database.run((direction, end))
    assert await database.catalogue() == catalogue
    assert await database.rows(kept) == contents
    walk.kept(contents)


async def test_the_sql_of_the_whole_history_makes_a_database(database: Database) -> None:
    """One file upgrades from nothing to head, and one downgrades to nothing.

    Head is the last revision before one that ``--sql`` refuses, and so is the first one below.
    """
    await database.script(await database.offline("upgrade", f"base:{SQL_HEAD}"))
    assert await database.revision() == SQL_HEAD
    assert await database.shape() == facts.tables(SQL_HEAD, database.lineage)
    below = min((revisions.previous(revision) for revision in NOT_DOWN_IN_SQL), default=SQL_HEAD)
    await database.downgrade(below)
    await database.script(await database.offline("downgrade", f"{below}:base"))
    assert await database.shape() == {}


async def test_the_sql_is_one_transaction(database: Database) -> None:
    """The statements are one transaction."""
    sql = await database.offline("upgrade", f"base:{SQL_HEAD}")
    assert sql.count("BEGIN;") == 1
    assert sql.count("COMMIT;") == 1
    assert sql.strip().startswith("BEGIN")
    assert sql.strip().endswith("COMMIT;")


@pytest.mark.parametrize("revision", sorted(NOT_DOWN_IN_SQL))
async def test_no_sql_decrypts(database: Database, revision: str) -> None:
    """A downgrade that needs a key is refused in one line, which names the reason."""
    with pytest.raises(CommandError, match="--sql has neither a connection nor a key"):
        await database.offline("downgrade", f"{revision}:{revisions.previous(revision)}")
