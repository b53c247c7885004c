"""``recreation.py`` reads the text of a CREATE TABLE and writes it again."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scripts import SCRIPTS


def loaded() -> Any:
    """Load the module, which is on no import path."""
    spec = importlib.util.spec_from_file_location("_recreation", SCRIPTS / "recreation.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recreation = loaded()

NAMES = st.sampled_from(
    ["a", "B", "user_id", '"two words"', '"qu""ote"', "[br,ack(et]", "`tick``s`", '"-- no"', '"ü"']
)
TYPES = st.sampled_from(["", "TEXT", "VARCHAR(20)", "DECIMAL(10, 2)", "DOUBLE PRECISION"])
RULES = st.lists(
    st.sampled_from(
        [
            "NOT NULL",
            "DEFAULT 'a, (b'",
            "DEFAULT ('it''s' || -1)",
            "DEFAULT -1 -- a comment, with (\n",
            "CHECK (1 <> ')' /* ( ' */)",
            "COLLATE NOCASE",
            "UNIQUE",
            "CONSTRAINT named CHECK (2 > 1)",
            "REFERENCES other (x) ON DELETE CASCADE",
        ]
    ),
    max_size=3,
    unique_by=lambda rule: rule.split()[0],
)
BLANK = st.sampled_from([" ", "\n\t", " /* , */ ", " -- ,(\n"])


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Build a CREATE TABLE that SQLite accepts."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    parts = [draw(BLANK).join([name, draw(TYPES), *draw(RULES)]) for name in names]
    if draw(st.booleans()):
        parts.append(f"CONSTRAINT pk{draw(BLANK)}PRIMARY KEY ({names[0]})")
    if draw(st.booleans()):
        parts.append(f"UNIQUE ({', '.join(names)})")
    options = draw(st.sampled_from(["", " -- none", f"{draw(BLANK)}/* ) */"]))
    return f"CREATE TABLE t{draw(BLANK)}({f',{draw(BLANK)}'.join(parts)}\n){options}"


def described(sql: str) -> list[Any]:
    """Return SQLite's description of the table that ``sql`` creates."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(sql)
        return [
            connection.execute(f"PRAGMA {pragma}").fetchall()
            for pragma in ("table_xinfo(t)", "index_list(t)", "foreign_key_list(t)")
        ]


@settings(deadline=None)
@given(tables())
def test_a_table_written_again_is_the_same_table(sql: str) -> None:
    """Any table is parsed, and its parts, joined again, mean the same to SQLite."""
    old = recreation._parse(sql)
    written = f"CREATE TABLE t ({', '.join([*old.columns.values(), *old.constraints])})"
    assert described(written) == described(sql)
    assert recreation._parse(written).plain == old.plain


@settings(deadline=None)
@given(tables(), tables())
def test_nothing_wanted_is_missing_and_nothing_surplus_is_lost(one: str, other: str) -> None:
    """The merged table has the wanted parts and the surplus ones; a second merge is the same."""
    old, wanted = recreation._parse(one), recreation._parse(other)
    new = recreation._merged(old, wanted, frozenset())
    assert new.columns.keys() == old.columns.keys() | wanted.columns.keys()
    assert wanted.columns.items() <= new.columns.items()
    assert new.constraints[: len(wanted.constraints)] == wanted.constraints
    assert recreation._merged(new, wanted, frozenset()).plain == new.plain
