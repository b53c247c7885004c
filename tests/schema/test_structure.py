"""Two structures are compared by what one lacks; what is surplus is somebody's."""

from __future__ import annotations

from hypothesis import given

from nextcloud_mcp_server.schema.structure import (
    VERSION_TABLE,
    Column,
    Gaps,
    Structure,
    Table,
    altered,
    gaps,
)
from tests.support.structures import structures


@given(structures())
def test_nothing_lacks_itself(structure: Structure) -> None:
    """A structure compared with itself has no gaps, and no gaps are false."""
    assert gaps(structure, structure) == Gaps()
    assert not gaps(structure, structure)


@given(structures(), structures())
def test_gaps_are_exactly_what_is_missing(there: Structure, wanted: Structure) -> None:
    """Every table, column and index that is wanted is there or is a gap, and never both."""
    found = gaps(there, wanted)
    assert set(found.tables) == wanted.tables.keys() - there.tables.keys()
    assert set(found.indexes) == wanted.indexes.keys() - there.indexes.keys()
    both = wanted.tables.keys() & there.tables.keys()
    assert set(found.columns) == {
        (table, column)
        for table in both
        for column in wanted.tables[table].columns.keys() - there.tables[table].columns.keys()
    }
    assert bool(found) == (found != Gaps())


@given(structures(), structures())
def test_what_is_surplus_is_no_gap(wanted: Structure, more: Structure) -> None:
    """Tables and indexes that are added to a structure never make it lack anything."""
    there = Structure(
        {**more.tables, **wanted.tables},
        {**more.indexes, **wanted.indexes},
        {**more.owners, **wanted.owners},
    )
    assert not gaps(there, wanted)


@given(structures())
def test_a_table_goes_with_its_indexes(structure: Structure) -> None:
    """Without some tables, no index of theirs is left, and every other one is."""
    gone = set(sorted(structure.tables)[:2])
    left = structure.without(gone)
    assert left.tables.keys() == structure.tables.keys() - gone
    assert set(left.owners.values()).isdisjoint(gone)
    assert left.owners.keys() == left.indexes.keys()
    assert {i for i, table in structure.owners.items() if table not in gone} == left.owners.keys()


def test_a_key_has_the_order_of_its_declaration() -> None:
    """The key's columns stand in the key's order, not in the table's."""
    table = Table({"a": Column(key=2), "b": Column(), "c": Column(key=1), "d": Column(True)})
    assert table.key == ("c", "a")
    assert table.required == {"a", "c", "d"}


def test_bookkeeping_is_nobodys_table() -> None:
    """The tables of SQLite and of Alembic do not count as anybody's."""
    names = ("sqlite_sequence", VERSION_TABLE, "_alembic_tmp_refresh_tokens", "notes")
    assert Structure({name: Table() for name in names}).own_tables == {"notes"}


def test_gaps_are_named_for_people() -> None:
    """A person reads what is missing, table by table, and "nothing" where nothing is."""
    some = Gaps(("t",), (("u", "c"),), ("i",))
    assert str(some) == "table t, column u.c, index i"
    assert str(Gaps()) == "nothing"


def test_what_is_altered_is_what_both_have() -> None:
    """A column that became required, and an index on something else; white space is none."""
    before = Structure(
        {"a": Table({"x": Column(), "y": Column(), "gone": Column()})},
        {"i": "CREATE INDEX i ON a (x)", "j": "CREATE INDEX j ON a (x)"},
        {"i": "a", "j": "a"},
    )
    after = Structure(
        {"a": Table({"x": Column(required=True), "y": Column()}), "b": Table({"z": Column()})},
        {"i": "CREATE INDEX i\n  ON a (x)", "j": "CREATE INDEX j ON a (y)", "k": "CREATE"},
        {"i": "a", "j": "a", "k": "b"},
    )
    assert altered(before, after) == ("a.x", "j")


@given(structures())
def test_nothing_is_altered_by_staying(made: Structure) -> None:
    """A structure compared with itself is not altered."""
    assert altered(made, made) == ()
