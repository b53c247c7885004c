"""Hypothesis strategies for structures: random ones and damaged copies of real ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.migrate.structures import complete
from nextcloud_mcp_server.schema.history import load_history
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Column, Structure, Table

HISTORY = complete(load_history())

names = st.text("abcdefg_", min_size=1, max_size=4)

columns = st.builds(
    Column,
    required=st.booleans(),
    key=st.integers(0, 2),
    declaration=st.sampled_from(["", "TEXT", "INTEGER DEFAULT 3"]),
)

tables = st.builds(
    Table,
    columns=st.dictionaries(names, columns, max_size=4),
    sql=st.text("CREATE TABL(),ü'\"\n", max_size=20),
)


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Draw random tables with random indexes."""
    made = draw(st.dictionaries(names, tables, max_size=4))
    owners: dict[str, str] = {}
    if made:
        owners = draw(st.dictionaries(names, st.sampled_from(sorted(made)), max_size=4))
    indexes = {name: f"CREATE INDEX {name}" for name in owners}
    return Structure(made, indexes, owners)


@st.composite
def damaged(draw: st.DrawFn) -> Structure:
    """Draw a real revision that lacks tables, columns and indexes and has foreign tables."""
    whole = HISTORY.structure(draw(st.sampled_from(HISTORY.revisions)))
    kept: dict[str, Table] = {}
    lost = draw(st.sets(st.sampled_from(sorted(whole.tables)), max_size=3))
    thinned = draw(st.sets(st.sampled_from(sorted(whole.tables)), max_size=2))
    for name, table in whole.tables.items():
        if name in lost:
            continue
        gone: set[str] = set()
        if name in thinned:
            gone = draw(st.sets(st.sampled_from(sorted(table.columns)), max_size=3))
        kept[name] = Table({n: c for n, c in table.columns.items() if n not in gone}, table.sql)
    kept |= draw(st.dictionaries(st.sampled_from(["notes", "users", "op_log"]), tables, max_size=2))
    if draw(st.booleans()):
        copied = draw(st.sampled_from(sorted(whole.tables)))
        kept[f"_alembic_tmp_{copied}"] = whole.tables[copied]
    dropped = draw(st.sets(st.sampled_from([*sorted(whole.owners), "none"]), max_size=2))
    owners = {i: t for i, t in whole.owners.items() if t in kept and i not in dropped}
    return Structure(
        kept,
        {index: whole.indexes[index] for index in owners},
        owners,
        draw(st.frozensets(st.sampled_from(["op_view", "oauth_clients"]), max_size=1)),
    )


version_rows = st.one_of(
    st.none(),
    st.lists(
        st.one_of(
            st.none(), st.sampled_from([*HISTORY.revisions, "", "011", "zzz"]), st.text(max_size=3)
        ),
        max_size=3,
    ).map(tuple),
)


@st.composite
def observations(draw: st.DrawFn) -> Snapshot:
    """Draw a snapshot of any kind."""
    structure = draw(st.one_of(structures(), damaged()))
    versions: Any = draw(version_rows)
    column = True
    if versions is not None:
        column = draw(st.integers(0, 9)) > 0
        table = Table({"version_num" if column else "version": Column(True, 1)})
        structure = Structure(
            {**structure.tables, VERSION_TABLE: table},
            structure.indexes,
            structure.owners,
            structure.others,
        )
    damage = draw(st.sampled_from(["", "", "", "", "", "corrupt", "not-a-database"]))
    return Snapshot(structure, versions if column else None, column, "wal", damage, "said SQLite")
