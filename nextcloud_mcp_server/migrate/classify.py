"""Classify a database by its structure. Pure: nothing is opened here.

:func:`classify` is total: every snapshot has a state. It compares the names of tables and
columns, what is required, and primary keys, never the text of the SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.errors import shortened, visible
from nextcloud_mcp_server.migrate.plan import Finding, State
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import (
    ENCRYPTED,
    JOURNAL_TABLE,
    UNUSED,
    VERSION_TABLE,
    Gaps,
    Structure,
    Table,
    gaps,
)

#: The one table that every release created: without it, people's grants are lost.
GRANTS: Final = "refresh_tokens"

#: The table of the provider's tokens, which every release stores as plain text.
SESSIONS: Final = "oauth_sessions"

#: Caches, which may be recreated if an unreleased draft left them unusable.
DISPOSABLE: Final = frozenset({"batch_ocr_jobs"})

#: A table of this shape is in many applications, so it proves nothing.
COMMON: Final = frozenset({"schema_version"})

#: Alembic's prefix for the copy that a table recreation fills before it renames it.
TEMPORARY: Final = "_alembic_tmp_"

#: Above this likeness (difflib's ratio) an unknown column is a missing one, misspelt.
MISSPELT: Final = 0.75


#: The most rows of the version table that a message names.
_MOST_NAMED: Final = 4


def classify(snapshot: Snapshot, history: History, *, accept_loss: bool = False) -> Finding:
    """Return the state of a database and what follows from it.

    With ``accept_loss``, a table or column of secrets that is gone is one that is missing: it
    is added, empty.
    """
    if snapshot.damage:
        return Finding(State(snapshot.damage), reason=snapshot.detail, companion=snapshot.companion)
    snapshot, adopted = _adopt(snapshot, history)
    structure = snapshot.structure
    strangers = structure.strangers
    if not strangers and not _recorded(snapshot) and snapshot.version_column:
        return Finding(State.NEW, reason="there is no table in it")
    if strangers and not any(ours(structure, history)):
        names = ", ".join(sorted(strangers)[:4])
        return Finding(State.FOREIGN, reason=f"it holds {names}, and no table of this program")
    finding = _classify_ours(snapshot, history, adopted)
    if finding.base is None or accept_loss:
        return finding
    return _unless_lost(finding, snapshot.structure, history)


def _classify_ours(snapshot: Snapshot, history: History, adopted: tuple[str, ...]) -> Finding:
    if not snapshot.version_column:
        return Finding(State.INCONSISTENT, reason=f"{VERSION_TABLE} has no column version_num")
    recorded = _recorded(snapshot)
    if unknown := [revision for revision in recorded if revision not in history]:
        return _unknown(snapshot, history, unknown)
    if len(recorded) > 1:
        reason = f"{VERSION_TABLE} holds {' and '.join(recorded)}"
        return Finding(State.AMBIGUOUS_VERSION, reason=reason)
    found = recorded[0] if recorded else None
    if reason := _contradiction(snapshot.structure, history, found):
        return Finding(State.INCONSISTENT, recorded=found, reason=reason)
    if not found:
        state, base = State.PRE_ALEMBIC, newest_complete(snapshot.structure, history)
        reason = f"it has no recorded revision and the tables of {base}"
    else:
        base = found
        state = State.AT_HEAD if base == history.head else State.BEHIND
        reason = f"it records {base}"
    return Finding(
        state,
        recorded=found,
        base=base,
        gaps=gaps(snapshot.structure, history.structure(base)),
        adopted=adopted,
        unusable=_unusable(snapshot.structure, history),
        tidy=list(snapshot.versions or ()) == recorded,
        reason=reason,
    )


def _unless_lost(finding: Finding, structure: Structure, history: History) -> Finding:
    """Return the finding; a refusal if a table or column of secrets has been removed.

    A file with a journal was made complete by this program. One without it may have been
    stamped by hand, and never had them.
    """
    if JOURNAL_TABLE not in structure.tables:
        return finding
    missing = finding.gaps
    if finding.recorded is None:
        # Somebody has emptied the version table: the first revision with a journal was reached.
        first = next(r for r in history.revisions if JOURNAL_TABLE in history.structure(r).tables)
        missing = gaps(structure, history.structure(first))
    lost = lost_secrets(missing)
    if not lost:
        return finding
    reason = f"it lacks {', '.join(lost)}, where secrets are stored"
    if alike := _alike(lost, structure, history):
        reason = f"{reason} ({alike} has the same columns)"
    return Finding(State.INCONSISTENT, recorded=finding.recorded, lost=lost, reason=reason)


def _unknown(snapshot: Snapshot, history: History, unknown: list[str]) -> Finding:
    """Return the finding for rows that are no revision; some may have been typed by hand."""
    rows = _filled(snapshot)
    meant = _meant(rows, history)
    state, recorded = State.UNKNOWN_REVISION, shortened(unknown[0])
    if meant is None:
        reason = f"it records {', '.join(map(shortened, unknown[:_MOST_NAMED]))}"
        return Finding(state, recorded=recorded, reason=reason)
    held = " and ".join(sorted(map(_described, rows))[:_MOST_NAMED])
    reason = f"{VERSION_TABLE} holds {held}"
    if len(meant) > 1:
        return Finding(State.AMBIGUOUS_VERSION, reason=reason)
    (revision,) = meant or ("",)
    if revision:
        reason = f"{reason}, and {revision} was probably meant"
    return Finding(state, recorded=recorded, reason=reason, typed=True, meant=revision)


def _meant(rows: list[object], history: History) -> frozenset[str] | None:
    """Return the revisions that rows mean which were typed by hand; None if one was not."""
    from nextcloud_mcp_server.migrate.typed_revision import typed_revisions  # noqa: PLC0415 - rarely needed

    meanings = [typed_revisions(_text(row), history) for row in rows]
    known = [meaning for meaning in meanings if meaning is not None]
    return frozenset().union(*known) if len(known) == len(meanings) else None


def _text(row: object) -> str:
    """Return a version row as text; of UTF-16 in a BLOB what it has of ASCII."""
    if not isinstance(row, bytes):
        return str(row)
    row = row.removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    return row.replace(b"\0", b"").decode("utf-8", "replace")


def _described(row: object) -> str:
    if isinstance(row, str):
        return f"the text {shortened(repr(row))}"
    kind = "BLOB" if isinstance(row, bytes) else "number"
    return f"the {kind} {shortened(repr(row))}"


def is_mistyped(seen: Snapshot, history: History) -> bool:
    """Return whether every version row is a mistyped id of this program, and no newer one."""
    return _meant(_filled(seen), history) is not None


def lost_secrets(missing: Gaps) -> tuple[str, ...]:
    """Return the missing tables and columns (``table.column``) that secrets are stored in."""
    tables = {table for table, _ in ENCRYPTED}
    return (
        *(table for table in missing.tables if table in tables),
        *(".".join(column) for column in missing.columns if column in ENCRYPTED),
    )


def _alike(lost: tuple[str, ...], structure: Structure, history: History) -> str:
    """Return the names of other tables with the columns of a lost one: renamed ones."""
    columns = [history.shapes[name][-1].columns.keys() for name in lost if name in history.shapes]
    return ", ".join(
        name
        for name, table in sorted(structure.tables.items())
        if name not in history.shapes and any(known <= table.columns.keys() for known in columns)
    )


def every_recorded(snapshot: Snapshot) -> str:
    """Return all recorded revisions, as text; empty if there is none."""
    return ", ".join(map(shortened, _recorded(snapshot)))


def _recorded(snapshot: Snapshot) -> list[str]:
    """Return the recorded revisions."""
    return sorted({str(row) for row in _filled(snapshot)})


def _filled(snapshot: Snapshot) -> list[object]:
    """Return the version rows that record something: NULL and what shows nothing do not."""
    rows = snapshot.versions or ()
    return [row for row in rows if row is not None and visible(_text(row)).strip()]


def _adopt(snapshot: Snapshot, history: History) -> tuple[Snapshot, tuple[str, ...]]:
    """Count a filled copy as the table if a recreation was killed between drop and rename."""
    tables = dict(snapshot.structure.tables)
    adopted = []
    for name, definitions in history.shapes.items():
        copy = tables.get(TEMPORARY + name)
        if name not in tables and copy and _has_required(copy, definitions):
            tables[name] = tables.pop(TEMPORARY + name)
            adopted.append(name)
    if not adopted:
        return snapshot, ()
    return snapshot._replace(structure=snapshot.structure._replace(tables=tables)), tuple(adopted)


def _has_required(there: Table, shapes: list[Table]) -> bool:
    if any(shape is there for shape in shapes):
        return True
    return any(shape.required <= there.columns.keys() for shape in shapes)


def ours(structure: Structure, history: History) -> Iterator[str]:
    """Yield the tables that have the required columns of a table of this program."""
    return (
        name
        for name, shapes in history.shapes.items()
        if name in structure.tables
        and name not in COMMON
        and _has_required(structure.tables[name], shapes)
    )


def used_tables(history: History, revision: str) -> dict[str, Table]:
    """Return the tables of ``revision`` that this program reads and writes."""
    tables = history.structure(revision).tables
    return {name: table for name, table in tables.items() if name not in UNUSED}


def triggers_on(structure: Structure, history: History) -> dict[str, str]:
    """Return the triggers on tables of this program, each with its table; no release made one."""
    triggers = structure.triggers.items()
    known = history.shapes.keys() - reused_names(structure, history, history.head)
    return {name: table for name, table in triggers if table in known}


def is_released(structure: Structure, history: History, revision: str) -> bool:
    """Return whether the tables are those of ``revision``, and nothing is attached to them.

    Only then can every statement of the store be executed for sure.
    """
    used = used_tables(history, revision)
    return (
        all(structure.tables.get(name) is table for name, table in used.items())
        and used.keys().isdisjoint(structure.triggers.values())
        and not any(
            table in used and name not in history.indexes
            for name, table in structure.owners.items()
        )
        # A foreign key of another table can make it impossible to write to one of these.
        and not any(
            "references" in table.sql.lower()
            for name, table in structure.tables.items()
            if name not in history.structure(revision).tables
        )
    )


def _contradiction(structure: Structure, history: History, recorded: str | None) -> str:
    """Return why the tables do not match the version row; empty if they do."""
    if GRANTS not in structure.tables:
        return f"the table {GRANTS}, which every release made, is not there"
    at_recorded = history.structure(recorded).tables if recorded else {}
    dropped = history.dropped_before(recorded) if recorded else frozenset()
    for name, shapes in history.shapes.items():
        if name in dropped:
            # Nothing uses it: it is left over, or somebody else's.
            continue
        if name in structure.others:
            return f"{name} is a view, where every release made a table"
        if name not in structure.tables or name in DISPOSABLE:
            continue
        wanted = at_recorded.get(name, shapes[0])
        if structure.tables[name] is wanted:
            continue
        known = {column for shape in shapes for column in shape.columns}
        if reason := _denies(name, structure.tables[name], wanted, known):
            return reason
    return ""


def reused_names(structure: Structure, history: History, revision: str | None) -> frozenset[str]:
    """Return the tables and views of somebody else that have a name which ``revision`` gave up.

    A table that this program could have made is not one of them.
    """
    dropped = history.dropped_before(revision) if revision else frozenset()
    return frozenset(
        name
        for name in dropped
        if name in structure.others
        or (name in structure.tables and not _fits(name, structure.tables[name], history))
    )


def _fits(name: str, there: Table, history: History) -> bool:
    shapes = history.shapes[name]
    known = {column for shape in shapes for column in shape.columns}
    return any(there is shape or not _denies(name, there, shape, known) for shape in shapes)


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
    # Rarely needed: a start at head does not import it.
    import difflib  # noqa: PLC0415

    for column in wanted.columns.keys() - there.columns.keys():
        if alike := difflib.get_close_matches(column, unknown, n=1, cutoff=MISSPELT):
            return f"{name} has {alike[0]} where {column} should be"
    return ""


def _unfilled(there: Table, wanted: Table) -> list[str]:
    """Return required columns that this program does not fill, or may leave empty."""
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
        if structure.tables[name] is not head[name]
        and (
            _unfilled(structure.tables[name], head[name])
            or structure.tables[name].key != head[name].key
            or not head[name].required <= structure.tables[name].columns.keys()
        )
    )


def newest_complete(structure: Structure, history: History) -> str:
    """Return the revision to stamp an unversioned database with.

    The newest whose structure is complete, without a table that it had dropped by then; of
    revisions with the same structure the lowest, so that data steps run; the first if none
    is complete.
    """
    for revision in reversed(history.revisions):
        wanted = history.structure(revision)
        dropped = history.dropped_before(revision)
        if not gaps(structure, wanted) and not dropped & structure.tables.keys():
            return next(r for r in history.revisions if history.structure(r) == wanted)
    return history.revisions[0]
