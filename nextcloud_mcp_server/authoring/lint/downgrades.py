"""What the way back leaves, lacks and loses, and whether a docstring owns up to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from nextcloud_mcp_server.authoring.lint.docstrings import LOSES
from nextcloud_mcp_server.authoring.lint.emitted_sql import Emitted
from nextcloud_mcp_server.authoring.lint.lexer import words
from nextcloud_mcp_server.authoring.lint.rules import Problem, problem
from nextcloud_mcp_server.authoring.lint.statements import dropped, renamed
from nextcloud_mcp_server.authoring.lint.version_files import Script
from nextcloud_mcp_server.migrate.structures import Trial
from nextcloud_mcp_server.schema.structure import Column, Structure, Table, altered, gaps

#: How people say that there is no loss; anything else names one.
_NOTHING: Final = re.compile(r"(?:nothing|none)(?: at all| is lost)?[.!]?", re.IGNORECASE)


def back_problems(scripts: Sequence[Script], trial: Trial, emitted: Emitted) -> Iterator[Problem]:
    """What is wrong with each downgrade, as an empty database has shown.

    Args:
        scripts: the revisions, oldest first.
        trial: the way up and back.
        emitted: what they say.
    """
    before = {s.id: trial.up.get(str(s.parent), Structure()) for s in scripts}
    here = trial.up[scripts[-1].id]
    # What a later revision has left is there below it, too.
    known: frozenset[str] = frozenset()
    for script in reversed(scripts):
        if script.id not in trial.down:
            return
        after = trial.down[script.id]
        wrong = frozenset(_differences(before[script.id], after))
        if new := sorted(wrong - known):
            text = f"After the upgrade and the downgrade it {'; it '.join(new)}."
            yield problem("uneven-downgrade", script.path, script.line_of("downgrade"), text)
        yield from _denied(script, [*_lost(here, after), *_emptied(script, emitted, here, after)])
        here, known = after, wrong


def _differences(before: Structure, after: Structure) -> Iterator[str]:
    """What the way up and back has changed, each as the end of a sentence."""
    left, lacks = gaps(before, after), gaps(after, before)
    yield from (f"leaves {one}" for one in _each(left.tables, left.columns, left.indexes))
    yield from (f"lacks {one}" for one in _each(lacks.tables, lacks.columns, lacks.indexes))
    yield from (f"has another {name}" for name in altered(_plain(before), _plain(after)))


def _plain(structure: Structure) -> Structure:
    """Of a key its place alone: SQLite lets one be NULL where its text does not say NOT NULL."""
    tables = {
        name: Table({n: Column(key=c.key) if c.key else c for n, c in table.columns.items()})
        for name, table in structure.tables.items()
    }
    return structure._replace(tables=tables)


def _each(
    tables: Sequence[str], columns: Sequence[tuple[str, str]], indexes: Sequence[str] = ()
) -> Iterator[str]:
    yield from (f"table {name}" for name in tables)
    yield from (f"column {table}.{column}" for table, column in columns)
    yield from (f"index {name}" for name in indexes)


def _lost(here: Structure, after: Structure) -> Iterator[str]:
    """Tables and columns that a downgrade drops, but for those that it may have renamed."""
    gone, come = gaps(after, here), gaps(here, after)
    shapes = [after.tables[name].columns.keys() for name in come.tables]
    tables = [name for name in gone.tables if here.tables[name].columns.keys() not in shapes]
    renaming = {table for table, _ in come.columns}
    return _each(tables, [(t, c) for t, c in gone.columns if t not in renaming])


def _emptied(script: Script, emitted: Emitted, here: Structure, after: Structure) -> Iterator[str]:
    """Tables that a downgrade drops and makes again, without renaming a filled one to them."""
    said = emitted.statements.get((script.path.name, "sqlite", "downgrade"), ())
    spoken = [words(one.sql, "sqlite") for one in said]
    kept = {renamed(one)[1].lower() for one in spoken}
    for name in dict.fromkeys(dropped(one).lower() for one in spoken):
        if name in here.tables and name in after.tables and name not in kept:
            yield f"table {name}"


def _denied(script: Script, lost: Sequence[str]) -> Iterator[Problem]:
    for line, said in script.label(LOSES)[:1]:
        if lost and _NOTHING.fullmatch(said.strip()):
            text = f"It says that nothing is lost, and the downgrade drops {', '.join(lost)}."
            yield problem("loses-denied", script.path, line, text)
