"""Files of interrupted upgrades and downgrades, and version rows set by operators.

Released versions committed each statement, so each prefix of an upgrade's statements is a
possible file. Its version row is that of the last complete revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nextcloud_mcp_server.migrate import structures
from nextcloud_mcp_server.schema.history import load_history
from tests.history.case import Case, of
from tests.history.released_files import LINEAGES
from tests.support.facts import FIELD, HEAD, REVISIONS, STEPS, Lineage
from tests.support.revisions import KNOWN, NEWER, previous
from tests.support.shapes import Shape, at, walk

TEMPORARY = "_alembic_tmp_oauth_sessions"

#: A file without a version counts as the lowest revision with its structure.
LOWEST_ALIKE = {revision: "003" if revision == "004" else revision for revision in KNOWN}
_HISTORY = structures.complete(load_history())
for _newer in NEWER:
    _below = previous(_newer)
    _alike = _HISTORY.structure(_newer) == _HISTORY.structure(_below)
    LOWEST_ALIKE[_newer] = LOWEST_ALIKE[_below] if _alike else _newer


def half_upgraded() -> Iterator[Case]:
    """Yield upgrades of an empty file and of files at 002 and 006, killed at each statement."""
    raw = [r for r in REVISIONS if r <= "006"]
    yield of("kill_fresh_version_table_only", "create", Shape(versions=()))
    yield from _killed("raw_fresh", Shape(versions=()), "raw", raw)
    yield from _killed("portable_fresh", Shape(versions=()), "portable", list(KNOWN))
    for begin in ("002", "006"):
        later = [r for r in KNOWN if r > begin]
        yield from _killed(f"raw{begin}_portable", at(begin), "portable", later)


def _killed(name: str, shape: Shape, lineage: Lineage, revisions: list[str]) -> Iterator[Case]:
    for number, left in enumerate(walk(shape, lineage, *revisions), start=1):
        yield of(f"kill_{name}_k{number:02}", _action(left), left)


def _action(shape: Shape) -> str:
    if not shape.versions:
        whole = shape == at("001", _lineage(shape)).recording()
        return "stamp:001->head" if whole else "repair->stamp:001->head"
    return "none" if shape.versions == (HEAD,) else f"resume:{shape.versions[0]}->head"


def _lineage(shape: Shape) -> Lineage:
    return shape.tables["refresh_tokens"].lineage


def half_downgraded() -> Iterator[Case]:
    """Yield downgrades killed at each statement: the version row is too high."""
    for lineage in LINEAGES:
        top = "006" if lineage == "raw" else "010"
        shape = at(top, lineage)
        for revision in reversed([r for r in FIELD if "002" <= r <= top]):
            for number, step in enumerate(reversed(STEPS[revision])):
                shape = shape.undone(step)
                # A downgrade from 010 adds a table, so nothing of 010 is missing.
                verb = "resume:" if revision == "010" else "repair->"
                action = f"{verb}{revision}->head"
                yield of(f"kill_down_{lineage}_{revision}_k{number}", action, shape)
            shape = shape.recording(REVISIONS[REVISIONS.index(revision) - 1])


def downgraded_raw() -> Iterator[Case]:
    """Yield downgrades of raw releases from 006, which kept ``oauth_sessions.nonce``."""
    shape = at("006")
    for revision in ("005", "004", "003", "002", "001"):
        left = at(revision).having("oauth_sessions", shape.tables["oauth_sessions"])
        yield of(f"down_raw_006_to_{revision}", f"resume:{revision}->head", left)


def leftovers() -> Iterator[Case]:
    """Yield killed table recreations: the copy is empty, filled, or the only table."""
    whole = at("006", "portable")
    narrow = replace(whole.tables["oauth_sessions"], added=())
    wide = replace(narrow, columns=(*narrow.columns, "nonce"))
    fill = f"INSERT INTO {TEMPORARY} SELECT * FROM oauth_sessions"
    yield of("tmp_empty", "upgrade:006->head", whole.also(narrow.sql(TEMPORARY)))
    yield of("tmp_filled", "upgrade:006->head", whole.also(wide.sql(TEMPORARY), fill))
    for revision in ("006", "009", "010", HEAD):
        action = f"repair@{HEAD}" if revision == HEAD else f"repair->{revision}->head"
        for lineage in LINEAGES:
            base = at(revision, lineage)
            sessions = replace(base.tables["oauth_sessions"], added=())
            lost = base.without("oauth_sessions").having(TEMPORARY, sessions)
            yield Case(
                f"tmp_only_{lineage}_{revision}",
                action,
                lost.write,
                adopted={TEMPORARY: "oauth_sessions"},
            )


def set_by_hand() -> Iterator[Case]:
    """Yield version rows that an operator deleted or set too low or too high."""
    for revision in REVISIONS:
        for lineage in LINEAGES:
            shape, name = at(revision, lineage), f"{lineage}_{revision}"
            stamp = f"stamp:{LOWEST_ALIKE[revision]}->head"
            yield of(f"version_empty_{name}", stamp, shape.recording())
            yield of(f"version_table_gone_{name}", stamp, shape.unversioned())
            yield of(f"version_null_{name}", stamp, _loose(shape, None))
            yield of(f"version_blank_{name}", stamp, _loose(shape, ""))
    for structure in REVISIONS:
        for row in ("001", "004", "006", "009", "010", HEAD):
            # Whether a newer revision adds anything to 101 is not known here.
            if row != structure and (structure, row) != (KNOWN[-1], HEAD):
                yield _moved(structure, row)
    for name, other in (("twice", "006"), ("and_null", None), ("and_blank", "")):
        shape = _loose(at("006"), "006", other)
        yield Case(f"version_{name}", "upgrade:006->head", shape.write, tidied=True)


def _moved(structure: str, row: str) -> Case:
    shape = at(structure, "portable").recording(row)
    # 004 changes no structure and 010 only drops a table: neither can be missing.
    lacks = row > structure and (structure, row) not in (("003", "004"), ("009", "010"))
    if row == HEAD:
        action = f"repair@{HEAD}" if lacks else "none"
    else:
        action = f"{'repair->' if lacks else 'resume:'}{row}->head"
    return of(f"version_{row}_on_{structure}", action, shape)


def _loose(shape: Shape, *rows: str | None) -> Shape:
    """Return a shape with a version table created by hand, without constraints."""
    values = [f"INSERT INTO alembic_version VALUES ({_quoted(row)})" for row in rows]
    return shape.unversioned().also(
        "CREATE TABLE alembic_version (version_num VARCHAR(32))", *values
    )


def _quoted(row: str | None) -> str:
    return "NULL" if row is None else f"'{row}'"


def all_cases() -> list[Case]:
    """Return every case of this module."""
    return [
        *half_upgraded(),
        *half_downgraded(),
        *downgraded_raw(),
        *leftovers(),
        *set_by_hand(),
    ]
