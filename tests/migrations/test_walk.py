"""Every revision up and down, one by one and all at once, with rows in every table."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from nextcloud_mcp_server.testing.changes import RowChanges, Statements
from nextcloud_mcp_server.testing.contents import Contents, changed, difference, typed
from tests.migrations import facts
from tests.migrations.database import Database, columns_of
from tests.migrations.facts import REVISIONS
from tests.migrations.rows import changes, seed
from tests.migrations.walk_report import Walk
from tests.support.scripts import add_revision, sql_revision


async def contents(database: Database) -> dict[str, Contents]:
    """Return the rows of every table."""
    found = {}
    for table, columns in columns_of(await database.shape()).items():
        names = ", ".join(f'"{name}"' for name in columns)
        rows = await database.query(f"SELECT {names} FROM {table}")
        found[table] = [typed(dict(zip(columns, row, strict=True))) for row in rows]
    return found


async def move(
    database: Database, direction: str, end: str, declared: Sequence[RowChanges]
) -> tuple[dict[str, Contents], list[str]]:
    """Run the revisions up or down to ``end``, and require exactly the ``declared`` changes.

    Returns the rows that were compared, and what was not tested: changes that no row goes
    through, and statements that change no row.
    """
    wanted, untested = await contents(database), []
    for step in declared:
        for table, members in step.items():
            used: set[int] = set()
            if table in wanted:
                wanted[table] = changed(wanted[table], members, used)
            untested += [f"{table}: {change}" for change in members if id(change) not in used]
    statements = Statements(database.engine.sync_engine)
    statements.step = f"{direction} to {end}"
    await database.run((direction, end))
    after = await contents(database)
    compared = {table: wanted[table] for table in sorted(wanted.keys() & after)}
    for table, rows in compared.items():
        problem = difference(table, rows, after[table])
        assert not problem, f"{direction} to {end} {problem}"
    return compared, untested + statements.untested


@pytest.mark.parametrize("revision", REVISIONS)
async def test_one_step_up_makes_the_structure_and_keeps_every_row(
    database: Database, revision: str, walk: Walk
) -> None:
    """An upgrade makes the structure found in the field, and changes only declared rows.

    Each declared change, and each UPDATE and DELETE, changes a row.
    """
    before = facts.previous(revision)
    walk.begins(before, revision, "up")
    await database.upgrade(before)
    await database.insert(seed(before, database.lineage))

    declared = changes(before, revision, database.lineage)
    rows, untested = await move(database, "upgrade", revision, declared)

    assert not untested, f"no row of BEFORE or ROWS tests this: {untested[0]}"
    assert await database.revision() == revision
    assert await database.shape() == facts.tables(revision, database.lineage)
    walk.kept(rows)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_one_step_down_leaves_no_trace_and_keeps_every_row(
    database: Database, revision: str, walk: Walk
) -> None:
    """A downgrade restores the catalogue to the letter, and changes only declared rows.

    Each declared change, and each UPDATE and DELETE, changes a row.
    """
    before = facts.previous(revision)
    walk.begins(revision, before, "down")
    await database.upgrade(before)
    if before == "base":
        await database.run(("stamp", "base"))
    catalogue = await database.catalogue()
    await database.upgrade(revision)
    await database.insert(seed(revision, database.lineage))

    declared = changes(revision, before, database.lineage)
    rows, untested = await move(database, "downgrade", before, declared)

    assert not untested, f"no row of ROWS tests this: {untested[0]}"
    assert await database.revision() == (None if before == "base" else before)
    assert await database.shape() == facts.tables(before, database.lineage)
    assert await database.catalogue() == catalogue
    walk.kept(rows)


#: From each revision to head, and from head to each revision.
LEAPS: Final = [part for low in REVISIONS[:-1] for part in (low, facts.HEAD)] + [REVISIONS[0]]


async def test_every_revision_goes_to_head_and_back_at_once(database: Database) -> None:
    """All revisions above one run in one transaction, up and down, with rows in every table.

    The catalogue of a revision is the same to the letter, however it was reached. Each shorter
    way is a part of one of these, and each of its steps is tested alone.
    """
    await database.upgrade("001")
    catalogues = {"001": await database.catalogue()}
    for start, end in pairwise(LEAPS):
        await database.insert(seed(start, database.lineage))
        direction = "upgrade" if start < end else "downgrade"
        await move(database, direction, end, changes(start, end, database.lineage))
        shape = await database.shape()
        assert shape == facts.tables(end, database.lineage), (start, end)
        catalogue = await database.catalogue()
        assert catalogues.setdefault(end, catalogue) == catalogue, (start, end)
        await database.execute(*(f"DELETE FROM {table}" for table in shape))


async def test_base_and_head_at_once(database: Database) -> None:
    """The reset of the documentation: down to nothing, and up to an empty database at head."""
    await database.upgrade("head")
    catalogue = await database.catalogue()
    await database.insert(seed(facts.HEAD, database.lineage))
    await database.downgrade("base")
    assert await database.shape() == {}
    await database.upgrade("head")
    assert await database.catalogue() == catalogue
    assert await database.query("SELECT * FROM refresh_tokens") == []


async def test_stamp_and_upgrade_share_one_transaction(database: Database) -> None:
    """The stamp of an old database and all revisions after it are done at once."""
    await database.upgrade("001")
    await database.execute("DROP TABLE alembic_version")
    await database.run(("stamp", "001"), ("upgrade", "head"))
    assert await database.revision() == facts.HEAD
    assert await database.shape() == facts.tables(facts.HEAD, database.lineage)


@pytest.mark.parametrize(
    ("where", "declared", "problem"),
    [("id = 2", 2, ""), ("id >= 2", 2, "changes resource_type"), ("id = 99", 99, "")],
)
async def test_a_revision_that_changes_rows(
    database: Database, scripts: Path, where: str, declared: int, problem: str
) -> None:
    """It passes if it changes exactly the declared rows; what changes none is untested."""
    statement = f"UPDATE audit_logs SET resource_type = 'user' WHERE {where}"
    add_revision(scripts, sql_revision(statement), "102", "101")
    await database.upgrade("101")
    await database.insert(seed("101", database.lineage, before=False))
    database.scripts = scripts
    change = ({"id": declared}, {"resource_type": "user"})
    with pytest.raises(AssertionError, match=problem) if problem else nullcontext():
        _, untested = await move(database, "upgrade", "102", [{"audit_logs": [change]}])
        nothing = [f"audit_logs: {change}", f"upgrade to 102: {statement}"]
        assert untested == (nothing if declared == 99 else [])
