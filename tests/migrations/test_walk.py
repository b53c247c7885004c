"""Every revision up and down, one by one and in leaps, with rows in every table."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import pytest

from tests.migrations import facts
from tests.migrations.database import Database, Row, columns_of
from tests.migrations.facts import REVISIONS
from tests.migrations.rows import SCOPES, rewritten, seed
from tests.migrations.tally import EACH, Walk


def common(one: str, other: str, lineage: facts.Lineage) -> dict[str, list[str]]:
    """The columns that both revisions have, without those that 004 rewrites."""
    first, second = (columns_of(facts.tables(side, lineage)) for side in (one, other))
    return {
        table: [name for name in columns if name in second[table] and (table, name) not in SCOPES]
        for table, columns in first.items()
        if table in second
    }


def scopes_of(revision: str) -> dict[str, list[str]]:
    """The columns that 004 rewrites, where the revision has them."""
    return {table: [column] for table, column in SCOPES} if revision >= "003" else {}


@pytest.mark.parametrize("revision", REVISIONS)
async def test_one_step_up_makes_the_structure_and_keeps_every_row(
    database: Database, revision: str, walk: Walk
) -> None:
    """A revision makes exactly the structure found in the field, and no row changes."""
    before = facts.previous(revision)
    walk.begins(before, revision, "up")
    await database.upgrade(before)
    await database.insert(seed(before, database.lineage))
    kept = common(before, revision, database.lineage)
    rows = await database.rows(kept)

    await database.upgrade(revision)

    assert await database.revision() == revision
    assert await database.shape() == facts.tables(revision, database.lineage)
    assert await database.rows(kept) == rows
    walk.kept(rows)


@pytest.mark.parametrize("revision", REVISIONS)
async def test_one_step_down_leaves_no_trace_and_keeps_every_row(
    database: Database, revision: str, walk: Walk
) -> None:
    """A downgrade restores the catalogue to the letter, and no row that stays changes."""
    before = facts.previous(revision)
    walk.begins(revision, before, "down")
    await database.upgrade(before)
    if before == "base":
        await database.run(("stamp", "base"))
    catalogue = await database.catalogue()
    await database.upgrade(revision)
    await database.insert(seed(revision, database.lineage))
    kept = common(before, revision, database.lineage)
    rows = await database.rows(kept)

    await database.downgrade(before)

    assert await database.revision() == (None if before == "base" else before)
    assert await database.shape() == facts.tables(before, database.lineage)
    assert await database.rows(kept) == rows
    assert await database.catalogue() == catalogue
    walk.kept(rows)


async def test_004_turns_colons_into_dots_and_back(database: Database) -> None:
    """Scopes are written with dots from 004 on, and a round trip restores every byte."""
    await database.upgrade("003")
    await database.insert(seed("003", database.lineage))
    colons = await database.rows(scopes_of("003"))
    assert ":" in repr(list(colons.values()))

    await database.upgrade("004")
    dots = await database.rows(scopes_of("004"))
    assert dots == rewritten(colons, ":", ".")
    assert ":" not in repr(list(dots.values()))

    await database.downgrade("003")
    assert await database.rows(scopes_of("003")) == colons


@pytest.mark.parametrize("revision", ["004", "006", "009"])
async def test_scopes_are_never_touched_above_004(database: Database, revision: str) -> None:
    """Only 004 rewrites scopes: every other step keeps them as they are."""
    await database.upgrade(revision)
    await database.insert(seed(revision, database.lineage))
    rows = await database.rows(scopes_of(revision))
    await database.upgrade()
    await database.downgrade(revision)
    assert await database.rows(scopes_of(revision)) == rows


#: From each revision to each other one: 001 002 001 003 ... 001 010 002 003 ...
LEAPS: Final = [
    revision
    for number, low in enumerate(REVISIONS)
    for high in REVISIONS[number + 1 :]
    for revision in (low, high)
]


async def test_every_leap_ends_in_the_structure_of_its_end(database: Database, walk: Walk) -> None:
    """From each revision to each other one, with rows in every table: what stays is the same.

    The catalogue of a revision is the same to the letter, whichever way it was reached.
    """
    walk.begins(EACH, EACH, "leap")
    await database.upgrade("001")
    catalogues = {"001": await database.catalogue()}
    visited = set()
    for start, end in pairwise(LEAPS):
        rows = await leap(database, start, end)
        assert await database.shape() == facts.tables(end, database.lineage), (start, end)
        catalogue = await database.catalogue()
        assert catalogues.setdefault(end, catalogue) == catalogue, (start, end)
        visited.add((start, end))
        walk.kept(rows)
    assert len(visited) >= len(REVISIONS) * (len(REVISIONS) - 1) - 1


async def leap(database: Database, start: str, end: str) -> dict[str, list[Row]]:
    """Go from ``start``, with nothing but the seed's rows, to ``end``; the rows that stayed."""
    await database.insert(seed(start, database.lineage))
    kept, scopes = common(start, end, database.lineage), scopes_of(min(start, end))
    rows, written = await database.rows(kept), await database.rows(scopes)
    if start < "004" <= end:
        written = rewritten(written, ":", ".")
    elif end < "004" <= start:
        written = rewritten(written, ".", ":")
    await database.run(("upgrade" if start < end else "downgrade", end))
    assert await database.rows(kept) == rows, (start, end)
    assert await database.rows(scopes) == written, (start, end)
    await database.execute(*(f"DELETE FROM {table}" for table in await database.shape()))
    return rows


async def test_base_and_head_in_one_leap(database: Database) -> None:
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
