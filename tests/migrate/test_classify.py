"""Every result of an inspection has exactly one state."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite import alter
from nextcloud_mcp_server.backends.sqlite.catalog import read_structure
from nextcloud_mcp_server.migrate.classify import TEMPORARY, classify
from nextcloud_mcp_server.migrate.plan import REFUSED, Finding, State, plan, refusal
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Column, Structure, Table, gaps
from tests.migrate.test_plan import DATABASE
from tests.support.structures import HISTORY, observations


def at(revision: str) -> Structure:
    """Return the structure of a revision with a version table."""
    complete = HISTORY.structure(revision)
    version = Table({"version_num": Column(True, 1)})
    return complete._replace(tables={**complete.tables, VERSION_TABLE: version})


@given(observations())
@settings(max_examples=200)
def test_every_snapshot_has_a_state(snapshot: Snapshot) -> None:
    """Each snapshot has a state with a reason, and a plan or a refusal."""
    finding = classify(snapshot, HISTORY)
    assert isinstance(finding, Finding)
    assert finding.reason
    if finding.state in REFUSED:
        assert refusal(finding, HISTORY, DATABASE).code == finding.state.value
        return
    assert plan(finding, HISTORY, DATABASE).target == HISTORY.head
    assert (finding.base is None) == (finding.state is State.NEW)


@given(observations())
@settings(max_examples=200)
def test_a_database_without_grants_is_refused(snapshot: Snapshot) -> None:
    """If only the table of the grants is missing, nothing is changed."""
    finding = classify(snapshot, HISTORY)
    if finding.refused or finding.state is State.NEW:
        return
    tables = snapshot.structure.tables
    assert "refresh_tokens" in tables or TEMPORARY + "refresh_tokens" in tables


@given(observations())
@settings(max_examples=200)
def test_filling_the_gaps_leaves_none(snapshot: Snapshot) -> None:
    """The gaps of an accepted database can be added and make its revision complete."""
    finding = classify(snapshot, HISTORY)
    if finding.base is None:
        return
    wanted = HISTORY.structure(finding.base)
    found = _adopted(snapshot.structure, finding)
    for table, column in finding.gaps.columns:
        assert wanted.tables[table].columns[column].declaration, f"{table}.{column}"
    tables = dict(found.tables)
    for name in finding.gaps.tables:
        tables[name] = wanted.tables[name]
    for name, column in finding.gaps.columns:
        columns = {**tables[name].columns, column: wanted.tables[name].columns[column]}
        tables[name] = Table(columns, tables[name].sql)
    indexes = {**found.indexes, **{i: wanted.indexes[i] for i in finding.gaps.indexes}}
    filled = found._replace(tables=tables, indexes=indexes)
    assert not gaps(filled, wanted)
    again = classify(snapshot._replace(structure=filled, versions=(finding.base,)), HISTORY)
    if VERSION_TABLE in tables and not finding.unusable:
        assert again.state in {State.BEHIND, State.AT_HEAD}
        assert not again.gaps


def _adopted(structure: Structure, finding: Finding) -> Structure:
    tables = dict(structure.tables)
    for name in finding.adopted:
        tables[name] = tables.pop(TEMPORARY + name)
    return structure._replace(tables=tables)


@given(
    st.sampled_from(HISTORY.revisions),
    st.sets(st.sampled_from(sorted(HISTORY.structure("010").owners)), max_size=4),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_gaps_are_filled_in_sqlite(
    revision: str, no_index: set[str], data: st.DataObject
) -> None:
    """SQLite accepts every statement that fills a gap, and nothing is missing afterwards."""
    complete = HISTORY.structure(revision)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        lost = data.draw(
            st.sets(st.sampled_from(sorted(set(complete.tables) - {"refresh_tokens"})))
        )
        for name in complete.tables.keys() - lost:
            connection.execute(complete.tables[name].sql)
        for index, table in complete.owners.items():
            if table not in lost and index not in no_index:
                connection.execute(complete.indexes[index])
        for name, column in _droppable(connection, complete, lost):
            if data.draw(st.booleans()):
                connection.execute(f"ALTER TABLE {name} DROP COLUMN {column}")
        connection.execute(f"CREATE TABLE {VERSION_TABLE} (version_num TEXT PRIMARY KEY)")
        snapshot = Snapshot(read_structure(connection.execute), (revision,))
        finding = classify(snapshot, HISTORY, accept_loss=True)
        assert finding.base == revision
        alter.fill(connection.execute, finding.gaps, complete)
        assert not gaps(read_structure(connection.execute), complete)


def _droppable(
    connection: sqlite3.Connection, complete: Structure, lost: set[str]
) -> list[tuple[str, str]]:
    used = " ".join(
        sql or ""
        for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE type='index'")
    )
    return [
        (name, column)
        for name, table in sorted(complete.tables.items())
        if name not in lost
        for column, facts in table.columns.items()
        if facts.declaration
        and not facts.key
        and column not in used
        # They are unique, which ALTER TABLE cannot add.
        and column not in {"code_hash", "mcp_authorization_code"}
    ]


@pytest.mark.parametrize("revision", HISTORY.revisions)
def test_a_complete_revision_has_no_gap(revision: str) -> None:
    """A database that is complete at its revision is behind or at head."""
    finding = classify(Snapshot(at(revision), (revision,)), HISTORY)
    assert finding.state is (State.AT_HEAD if revision == HISTORY.head else State.BEHIND)
    assert (finding.base, bool(finding.gaps), finding.tidy) == (revision, False, True)


@pytest.mark.parametrize("revision", HISTORY.revisions)
def test_a_file_without_a_version_row_counts_as_its_newest_complete_revision(revision: str) -> None:
    """Of revisions with the same structure the lowest counts, so that steps on data run."""
    finding = classify(Snapshot(HISTORY.structure(revision)), HISTORY)
    assert finding.state is State.PRE_ALEMBIC
    assert finding.base == {"004": "003"}.get(revision, revision)


@pytest.mark.parametrize(
    ("versions", "tidy"),
    [(("006",), True), (("006", "006"), False), (("006", None), False), (("006", ""), False)],
)
def test_an_extra_version_row_is_accepted(versions: tuple[str | None, ...], tidy: bool) -> None:
    """A duplicate or an empty row is not ambiguous and is removed."""
    finding = classify(Snapshot(at("006"), versions), HISTORY)
    assert (finding.state, finding.tidy) == (State.BEHIND, tidy)


def test_a_version_table_of_another_shape_is_not_new() -> None:
    """A file with only a version table that Alembic cannot read is refused."""
    version = Structure({VERSION_TABLE: Table({"version": Column()})})
    finding = classify(Snapshot(version, None, version_column=False), HISTORY)
    assert finding.state is State.INCONSISTENT


def test_a_virtual_table_of_our_name_is_not_ours() -> None:
    """A table with unknown columns is not accepted as the table of the grants."""
    complete = HISTORY.structure("006")
    virtual = Table({}, "CREATE VIRTUAL")
    found = complete._replace(tables={**complete.tables, "refresh_tokens": virtual})
    assert classify(Snapshot(found), HISTORY).state is State.INCONSISTENT
