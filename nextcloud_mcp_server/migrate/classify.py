"""Tell what a database is by its structure. Pure: nothing is opened here.

:func:`classify` is total: whatever a look has seen, it has a state. It judges by names of
tables and columns, by what is required and by primary keys, never by the text of the SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.migrate.plan import Finding, State
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Structure, Table, gaps

#: The one table that every release made: without it, people's grants are lost.
GRANTS: Final = "refresh_tokens"

#: Caches, which may be made anew where an unreleased draft left them unusable.
DISPOSABLE: Final = frozenset({"batch_ocr_jobs"})

#: A table of this shape is in many applications, so it proves nothing.
COMMON: Final = frozenset({"schema_version"})

#: Alembic's prefix for the copy that a table recreation fills before it renames it.
TEMPORARY: Final = "_alembic_tmp_"

#: Above this likeness (difflib's ratio) an unknown column is a missing one, misspelt.
MISSPELT: Final = 0.75


def classify(seen: Snapshot, history: History) -> Finding:
    """Name the state of what was seen."""
    if seen.damage:
        return Finding(State(seen.damage), reason=seen.detail)
    seen, adopted = _adopt(seen, history)
    structure = seen.structure
    strangers = structure.own_tables | structure.others
    if not strangers and not _recorded(seen) and seen.version_column:
        return Finding(State.NEW, reason="there is no table in it")
    if strangers and next(_ours(structure, history), None) is None:
        names = ", ".join(sorted(strangers)[:4])
        return Finding(State.FOREIGN, reason=f"it holds {names}, and no table of this program")
    return _classify_ours(seen, history, adopted)


def _classify_ours(seen: Snapshot, history: History, adopted: tuple[str, ...]) -> Finding:
    if not seen.version_column:
        return Finding(State.INCONSISTENT, reason=f"{VERSION_TABLE} has no column version_num")
    recorded = _recorded(seen)
    if unknown := [revision for revision in recorded if revision not in history]:
        names = ", ".join(unknown)
        return Finding(State.UNKNOWN_REVISION, recorded=unknown[0], reason=f"it records {names}")
    if len(recorded) > 1:
        reason = f"{VERSION_TABLE} holds {' and '.join(recorded)}"
        return Finding(State.AMBIGUOUS_VERSION, reason=reason)
    if reason := _contradiction(seen.structure, history, recorded[0] if recorded else None):
        found = recorded[0] if recorded else None
        return Finding(State.INCONSISTENT, recorded=found, reason=reason)
    if not recorded:
        state, base = State.PRE_ALEMBIC, _newest_whole(seen.structure, history)
        reason = f"it has no recorded revision and the tables of {base}"
    else:
        base = recorded[0]
        state = State.AT_HEAD if base == history.head else State.BEHIND
        reason = f"it records {base}"
    return Finding(
        state,
        recorded=recorded[0] if recorded else None,
        base=base,
        gaps=gaps(seen.structure, history.structure(base)),
        adopted=adopted,
        unusable=_unusable(seen.structure, history),
        tidy=list(seen.versions or ()) == recorded,
        reason=reason,
    )


def _recorded(seen: Snapshot) -> list[str]:
    """The revisions in the version table; a NULL or an empty row records none."""
    return sorted({str(row) for row in seen.versions or () if row not in (None, "")})


def _adopt(seen: Snapshot, history: History) -> tuple[Snapshot, tuple[str, ...]]:
    """Count a filled copy as the table, where a recreation died between drop and rename."""
    tables = dict(seen.structure.tables)
    adopted = []
    for name, definitions in history.shapes.items():
        copy = tables.get(TEMPORARY + name)
        if name not in tables and copy and _has_required(copy, definitions):
            tables[name] = tables.pop(TEMPORARY + name)
            adopted.append(name)
    if not adopted:
        return seen, ()
    return seen._replace(structure=seen.structure._replace(tables=tables)), tuple(adopted)


def _has_required(there: Table, shapes: list[Table]) -> bool:
    if any(shape is there for shape in shapes):
        return True
    return any(shape.required <= there.columns.keys() for shape in shapes)


def ours(structure: Structure, history: History) -> frozenset[str]:
    """The tables that have the columns that a table of ours must have."""
    return frozenset(_ours(structure, history))


def _ours(structure: Structure, history: History) -> Iterator[str]:
    for name, shapes in history.shapes.items():
        there = structure.tables.get(name)
        if there and name not in COMMON and _has_required(there, shapes):
            yield name


def _contradiction(structure: Structure, history: History, recorded: str | None) -> str:
    """Why the tables cannot be what the version row says; empty where they can."""
    if GRANTS not in structure.tables:
        return f"the table {GRANTS}, which every release made, is not there"
    for name, shapes in history.shapes.items():
        if name in structure.others:
            return f"{name} is a view, where every release made a table"
        if name not in structure.tables or name in DISPOSABLE:
            continue
        wanted = _shape_at(name, history, recorded) or shapes[0]
        if structure.tables[name] is wanted:
            continue
        known = {column for shape in shapes for column in shape.columns}
        if reason := _denies(name, structure.tables[name], wanted, known):
            return reason
    return ""


def _shape_at(name: str, history: History, recorded: str | None) -> Table | None:
    return history.structure(recorded).tables.get(name) if recorded else None


def _denies(name: str, there: Table, wanted: Table, known: set[str]) -> str:
    if missing := sorted(wanted.required - there.columns.keys()):
        return f"{name} lacks {', '.join(missing)}, which cannot be added"
    if there.key != wanted.key:
        return f"the primary key of {name} is ({', '.join(there.key)})"
    if surplus := _unfilled(there, wanted):
        return f"{name}.{surplus[0]} is required, and no release fills it"
    unknown = there.columns.keys() - known
    if not unknown:
        return ""
    # Rarely needed, and a start at head should import nothing that it does not need.
    import difflib  # noqa: PLC0415

    for column in wanted.columns.keys() - there.columns.keys():
        if alike := difflib.get_close_matches(column, unknown, n=1, cutoff=MISSPELT):
            return f"{name} has {alike[0]} where {column} should be"
    return ""


def _unfilled(there: Table, wanted: Table) -> list[str]:
    """Columns that every writer would have to fill, and ours leave out or may leave empty."""
    return sorted(
        name
        for name, column in there.columns.items()
        if column.required
        and not column.key
        and (name not in wanted.columns or not wanted.columns[name].required)
    )


def _unusable(structure: Structure, history: History) -> tuple[str, ...]:
    head = history.structure(history.head).tables
    return tuple(
        name
        for name in sorted(DISPOSABLE & head.keys() & structure.tables.keys())
        if _unfilled(structure.tables[name], head[name])
        or structure.tables[name].key != head[name].key
        or not head[name].required <= structure.tables[name].columns.keys()
    )


def _newest_whole(structure: Structure, history: History) -> str:
    """The revision to stamp an unversioned database with.

    The newest whose structure the file has whole, without a table that it had dropped by
    then; of revisions with the same structure the lowest, so that data steps run; the
    first where none is whole.
    """
    for revision in reversed(history.revisions):
        wanted = history.structure(revision)
        dropped = history.dropped_before(revision)
        if not gaps(structure, wanted) and not dropped & structure.tables.keys():
            return next(r for r in history.revisions if history.structure(r) == wanted)
    return history.revisions[0]
