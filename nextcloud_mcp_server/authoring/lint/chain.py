"""Check that the revision history is linear and numbered one by one. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final

from nextcloud_mcp_server.authoring.lint.rules import Problem, problem
from nextcloud_mcp_server.authoring.lint.version_files import UNREADABLE, Script
from nextcloud_mcp_server.migrate.alembic_commands import FIRST_OWN_ID

#: The last id of the history that is shared with other programs.
LAST_SHARED_ID: Final = 10


def next_number(after: int) -> int:
    """Return the number that follows ``after``; 011 to 100 are never used."""
    return after + 1 if after < LAST_SHARED_ID else max(after + 1, FIRST_OWN_ID)


def line_problems(
    scripts: Sequence[Script], gone: Collection[str] = frozenset()
) -> Iterator[Problem]:
    """Yield the problems of the ids and the order of ``scripts``, which are sorted by id.

    The ids in ``gone`` count as existing: a missing file is reported elsewhere, not for its
    neighbours.
    """
    for script in scripts:
        yield from _own_id(script)
    yield from _duplicates(scripts)
    yield from _numbers(scripts, gone)
    yield from _parents(scripts, gone)


def _own_id(script: Script) -> Iterator[Problem]:
    found, line = script.values.get("revision", (None, 1))
    if found is None:
        yield problem("revision-id", script.path, line, "It does not assign revision.")
    elif found != script.id:
        value = "not a literal" if found is UNREADABLE else repr(found)
        text = f"The revision is {value}, and {script.id!r} in the file name."
        yield problem("revision-id", script.path, line, text)
    for name in ("branch_labels", "depends_on"):
        if script.values.get(name, (None, 1))[0] is not None:
            text = f"{name} is not None."
            at = script.line_of(name)
            yield problem("broken-chain", script.path, at, text, parent="the previous id")


def _duplicates(scripts: Sequence[Script]) -> Iterator[Problem]:
    for number, group in groupby(scripts, key=lambda script: script.id):
        first, *others = group
        for other in others:
            text = f"{number} is also the id of {first.path.name}."
            yield problem("duplicated-id", other.path, other.line_of("revision"), text)


def _numbers(scripts: Sequence[Script], gone: Collection[str]) -> Iterator[Problem]:
    for before, script in pairwise(scripts):
        below = max((before.id, *(one for one in gone if int(one) < int(script.id))), key=int)
        wanted = next_number(int(below))
        if int(script.id) not in (wanted, int(before.id)):
            text = f"{script.id} follows {below}; the next id is {wanted:03d}."
            yield problem("revision-id", script.path, script.line_of("revision"), text)
        if script.moment < before.moment and script.id != before.id:
            text = f"Its date, {script.moment}, is before the date of {before.path.name}."
            yield problem("file-name", script.path, 1, text)


def _parents(scripts: Sequence[Script], gone: Collection[str]) -> Iterator[Problem]:
    ids = sorted({*gone, *(script.id for script in scripts)}, key=int)
    below = dict(zip(ids, [None, *ids], strict=False))
    for script in scripts:
        parent, wanted = script.parent, below[script.id]
        if parent == wanted:
            continue
        line = script.line_of("down_revision")
        others = {s.id for s in scripts if s.parent == parent and s.id != script.id}
        if parent in ids and others:
            text = f"{script.id} follows {parent}, and so does {min(others)}."
            yield problem("second-head", script.path, line, text)
            continue
        said = "missing or not a literal" if parent is UNREADABLE else repr(parent)
        text = f"The down_revision is {said}, and the previous id is {wanted or 'none'}."
        yield problem("broken-chain", script.path, line, text, parent=repr(wanted))
