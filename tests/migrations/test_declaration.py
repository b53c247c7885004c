"""Reading the text of a CREATE TABLE, and writing it again."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.migrations.database import SCRIPTS


def loaded() -> Any:
    """The module, which is on no import path."""
    spec = importlib.util.spec_from_file_location("_declaration", SCRIPTS / "declaration.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


declaration = loaded()

NAMES = st.sampled_from(
    ["a", "B", "user_id", '"two words"', '"qu""ote"', "[br,ack(et]", "`tick``s`", '"-- no"', '"ü"']
)
TYPES = st.sampled_from(
    ["", "TEXT", "INTEGER", "VARCHAR(20)", "DECIMAL(10, 2)", "DOUBLE PRECISION"]
)
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
    """A CREATE TABLE that SQLite accepts."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    parts = [
        draw(BLANK).join([name, draw(TYPES), *draw(RULES)]).replace("\x00", "") for name in names
    ]
    if draw(st.booleans()):
        parts.append(f"CONSTRAINT pk{draw(BLANK)}PRIMARY KEY ({names[0]})")
    if draw(st.booleans()):
        parts.append(f"UNIQUE ({', '.join(names)})")
    return f"CREATE TABLE t{draw(BLANK)}({f',{draw(BLANK)}'.join(parts)}\n)"


def told(sql: str) -> list[Any]:
    """All that SQLite says of the table that ``sql`` makes."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(sql)
        return [
            connection.execute(f"PRAGMA {pragma}").fetchall()
            for pragma in ("table_xinfo(t)", "index_list(t)", "foreign_key_list(t)")
        ]


@settings(deadline=None)
@given(tables())
def test_a_table_that_is_written_again_is_the_same_table(sql: str) -> None:
    """Whatever SQLite accepts is read, and what is written means the same to SQLite."""
    read = declaration.Declared.read(sql)
    written = read.sql("t")
    assert told(written) == told(sql)
    again = declaration.Declared.read(written)
    assert again.same_as(read)
    assert list(again.columns) == list(read.columns)


@settings(deadline=None)
@given(tables(), tables())
def test_what_is_turned_into_another_is_it_and_stays_it(one: str, other: str) -> None:
    """Nothing wanted is missing, nothing surplus is lost, and the second time is no change."""
    old, wanted = declaration.Declared.read(one), declaration.Declared.read(other)
    new = old.turned_into(wanted, frozenset())
    assert new.columns.keys() == old.columns.keys() | wanted.columns.keys()
    assert wanted.columns.items() <= new.columns.items()
    assert set(wanted.constraints) <= set(new.constraints)
    assert new.turned_into(wanted, frozenset()).same_as(new)


@pytest.mark.parametrize(
    ("sql", "numbers", "counts"),
    [
        ("CREATE TABLE t (id INTEGER PRIMARY KEY)", True, False),
        ("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL)", True, True),
        ("CREATE TABLE t (id INTEGER NOT NULL, a TEXT, PRIMARY KEY (id))", True, False),
        ('CREATE TABLE t ("id" integer not null, CONSTRAINT k PRIMARY KEY ("ID"))', True, False),
        ("CREATE TABLE t (id INT PRIMARY KEY)", False, False),
        ("CREATE TABLE t (id BIGINT NOT NULL, PRIMARY KEY (id))", False, False),
        ("CREATE TABLE t (id INTEGER NOT NULL, a TEXT, PRIMARY KEY (id, a))", False, False),
        ("CREATE TABLE t (id INTEGER, a TEXT PRIMARY KEY)", False, False),
    ],
)
def test_a_key_that_is_the_rowid_is_known(sql: str, numbers: bool, counts: bool) -> None:
    """It is copied as what it is, and the rowid is not named a second time."""
    read = declaration.Declared.read(sql)
    assert (read.numbers_rows, read.counts) == (numbers, counts)


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("CREATE TABLE t (a)", "rowid"),
        ("CREATE TABLE t (rowid TEXT)", "_rowid_"),
        ("CREATE TABLE t (rowid, _rowid_)", "oid"),
        ("CREATE TABLE t (rowid, _rowid_, oid)", None),
        ("CREATE TABLE t (a PRIMARY KEY) WITHOUT ROWID", None),
        ("CREATE TABLE t (a INT) STRICT", "rowid"),
    ],
)
def test_a_rowid_has_the_name_that_is_free(sql: str, name: str | None) -> None:
    """A column of that name hides it, and a table may have none."""
    assert declaration.Declared.read(sql).rowid == name


def test_generated_columns_are_known() -> None:
    """Nobody may insert into a column that SQLite computes."""
    sql = "CREATE TABLE t (a, b AS (a || 'x'), c TEXT GENERATED ALWAYS AS (a) STORED, alias TEXT)"
    columns = declaration.Declared.read(sql).columns
    assert [name for name, d in columns.items() if d.is_generated] == ["b", "c"]


@pytest.mark.parametrize("sql", ["CREATE TABLE t (a)", "CREATE TABLE t (a TEXT) STRICT"])
def test_options_of_the_table_stay(sql: str) -> None:
    """STRICT and WITHOUT ROWID stand behind the parenthesis."""
    read = declaration.Declared.read(sql)
    assert read.sql("x").endswith(sql.partition(")")[2] or ")")
    assert read.turned_into(declaration.Declared.read("CREATE TABLE t (a INT)"), frozenset())
