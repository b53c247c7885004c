"""What would make a refused database one that a start may bring to head. Pure.

A start mends only what can be added. Here is what a person may have mended when asked: a
column whose name was hit by a flipped bit, and version rows that the tables deny. Where
``refresh_tokens`` is lost, or a newer release wrote the file, there is nothing to mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.migrate.classify import DISPOSABLE, MISSPELT, TEMPORARY, classify
from nextcloud_mcp_server.migrate.plan import Finding, State
from nextcloud_mcp_server.schema.history import History
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Column, Structure, Table

_AMENDABLE: Final = frozenset({State.AMBIGUOUS_VERSION, State.INCONSISTENT, State.UNKNOWN_REVISION})


@dataclass(frozen=True, slots=True)
class Rename:
    """A column to rename back."""

    table: str
    column: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Amends:
    """What to change first, and what the database is then.

    Attributes:
        renames: columns to rename back.
        forgets: whether the version table is to be made anew: the tables say more.
        finding: what the database is afterwards; no start refuses it.
    """

    renames: tuple[Rename, ...]
    forgets: bool
    finding: Finding


def amends(seen: Snapshot, history: History) -> Amends | None:
    """The least that makes the database one of ours again; None where nothing safe does."""
    finding = classify(seen, history)
    if finding.state not in _AMENDABLE:
        return None
    if finding.state is State.UNKNOWN_REVISION and not _is_slip(seen, history):
        return None
    renames = tuple(misspelt(seen.structure, history))
    for chosen, forgets in ((renames, False), ((), True), (renames, True)):
        found = classify(_amended(seen, chosen, forgets=forgets), history)
        if not found.refused and found.state is not State.NEW:
            return Amends(chosen, forgets, found)
    return None


def _is_slip(seen: Snapshot, history: History) -> bool:
    """Whether every version row is an id of ours that somebody mistyped, and no newer one."""
    rows = [str(row).strip() for row in seen.versions or () if row not in (None, "")]
    return all(row.isdecimal() and row.zfill(3) in history for row in rows)


def _amended(seen: Snapshot, renames: tuple[Rename, ...], *, forgets: bool) -> Snapshot:
    tables = dict(seen.structure.tables)
    for rename in renames:
        columns = {
            rename.wanted if name == rename.column else name: column
            for name, column in tables[rename.table].columns.items()
        }
        tables[rename.table] = tables[rename.table]._replace(columns=columns)
    if forgets:
        tables.pop(VERSION_TABLE, None)
        seen = seen._replace(versions=None, version_column=True)
    return seen._replace(structure=seen.structure._replace(tables=tables))


def misspelt(structure: Structure, history: History) -> Iterator[Rename]:
    """Columns that no release has made, where one is missing whose name is nearly the same.

    Only where each is the other's one match, and both are alike in what they require.
    """
    for name, shapes in _shapes(history).items():
        if name not in structure.tables or name in DISPOSABLE:
            continue
        there, widest = structure.tables[name], shapes[-1]
        known = {column for shape in shapes for column in shape.columns}
        unknown = sorted(there.columns.keys() - known)
        missing = sorted(widest.columns.keys() - there.columns.keys())
        for wanted in missing:
            alike = difflib.get_close_matches(wanted, unknown, cutoff=MISSPELT)
            if (
                len(alike) == 1
                and _one_match(alike[0], missing)
                and _are_alike(there.columns[alike[0]], widest.columns[wanted])
            ):
                yield Rename(name, alike[0], wanted)


def _are_alike(found: Column, wanted: Column) -> bool:
    # In the older of the two lineages a key of one column may be NULL.
    return found.key == wanted.key and (bool(found.key) or found.required == wanted.required)


def _one_match(column: str, missing: list[str]) -> bool:
    return len(difflib.get_close_matches(column, missing, cutoff=MISSPELT)) == 1


def _shapes(history: History) -> Mapping[str, list[Table]]:
    shapes: dict[str, list[Table]] = {}
    for revision in history.revisions:
        for name, table in history.structure(revision).tables.items():
            shapes.setdefault(name, []).append(table)
    return shapes


#: What the remaking of a cache puts its rows into for a moment.
REPLACED: Final = "_replaced_"


def leftover_tables(seen: Structure, history: History) -> list[str]:
    """Tables that a recreation which was cut short left, beside the one they stand for."""
    known = {name for revision in history.revisions for name in history.structure(revision).tables}
    aside = {prefix + name: name for name in known for prefix in (TEMPORARY, REPLACED)}
    return sorted(name for name, own in aside.items() if name in seen.tables and own in seen.tables)
