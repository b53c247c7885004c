"""Structures are compared by their missing parts; extra parts are ignored."""

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


@given(structures(), structures())
def test_gaps_are_exactly_the_missing_parts(actual: Structure, wanted: Structure) -> None:
    """Every table, column and index of the wanted structure exists or is a gap."""
    result = gaps(actual, wanted)
    assert set(result.tables) == wanted.tables.keys() - actual.tables.keys()
    assert set(result.indexes) == wanted.indexes.keys() - actual.indexes.keys()
    both = wanted.tables.keys() & actual.tables.keys()
    assert set(result.columns) == {
        (table, column)
        for table in both
        for column in wanted.tables[table].columns.keys() - actual.tables[table].columns.keys()
    }
    assert bool(result) == (result != Gaps())


@given(structures(), structures())
def test_extra_parts_are_not_gaps(wanted: Structure, more: Structure) -> None:
    """Additional tables and indexes create no gaps."""
    actual = Structure(
        {**more.tables, **wanted.tables},
        {**more.indexes, **wanted.indexes},
        {**more.owners, **wanted.owners},
    )
    assert not gaps(actual, wanted)


@given(structures())
def test_a_table_goes_with_its_indexes(structure: Structure) -> None:
    """A structure without some tables has no indexes of them, and all the others."""
    gone = set(sorted(structure.tables)[:2])
    left = structure.without(gone)
    assert left.tables.keys() == structure.tables.keys() - gone
    assert set(left.owners.values()).isdisjoint(gone)
    assert left.owners.keys() == left.indexes.keys()
    assert {i for i, table in structure.owners.items() if table not in gone} == left.owners.keys()


def test_a_key_has_the_order_of_its_declaration() -> None:
    """The columns of the key are in the order of the key, not of the table."""
    table = Table({"a": Column(key=2), "b": Column(), "c": Column(key=1), "d": Column(True)})
    assert table.key == ("c", "a")
    assert table.required == {"a", "c", "d"}


def test_internal_tables_are_not_counted() -> None:
    """The tables of SQLite and Alembic are not counted."""
    names = ("sqlite_sequence", VERSION_TABLE, "_alembic_tmp_refresh_tokens", "notes")
    assert Structure({name: Table() for name in names}).own_tables == {"notes"}


def test_gaps_are_printed() -> None:
    """The text names each missing part, or "nothing"."""
    some = Gaps(("t",), (("u", "c"),), ("i",))
    assert str(some) == "table t, column u.c, index i"
    assert str(Gaps()) == "nothing"


def test_altered_parts_are_in_both() -> None:
    """A column that is now required and an index on another column; white space is ignored."""
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
