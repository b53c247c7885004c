"""SQL tokens: only white space and comments outside literals are left out."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nextcloud_mcp_server.authoring.lint.emitted_sql import emit_sql
from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS, Dialect, normalized, tokens
from nextcloud_mcp_server.authoring.lint.version_files import read_scripts
from nextcloud_mcp_server.schema.history import load_history
from tests.support.scripts import SCRIPTS

#: What may stand inside quotes of each kind, quotes doubled.
_inside = st.text("aé 'x\"`[]-/*\n\\$", max_size=8)

_literals = _inside.map(lambda text: "'" + text.replace("'", "''") + "'")
_names = _inside.map(lambda text: '"' + text.replace('"', '""') + '"')
_words = st.from_regex(r"[A-Za-z_é][A-Za-z_0-9é]{0,5}", fullmatch=True)
_numbers = st.sampled_from(["0", "12", "1.5", ".5", "2e10", "1.5e-3", "0x1F"])
_marks = st.sampled_from(list("(),;=<>*+|?.%"))
_own: dict[Dialect, st.SearchStrategy[str]] = {
    "sqlite": st.one_of(
        _literals.map(lambda text: f"x{text}"),
        _inside.map(lambda text: "`" + text.replace("`", "``") + "`"),
        _inside.map(lambda text: "[" + text.replace("]", "") + "]"),
    ),
    "postgresql": st.one_of(
        _inside.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
        _inside.map(lambda text: f"$tag$ {text.replace('$', '')} $tag$"),
        _inside.map(lambda text: f"$$ {text.replace('$', '')} $$"),
    ),
}

_spaces = st.sampled_from([" ", "\n", "\t", "  \r\n", " -- it's a comment\n", '/* it\'s "one" */'])
_between = st.lists(_spaces, min_size=1, max_size=3).map("".join)


def statements(dialect: Dialect) -> st.SearchStrategy[list[str]]:
    """Build lists of tokens of every kind of a dialect."""
    one = st.one_of(_literals, _names, _words, _numbers, _marks, _own[dialect])
    return st.lists(one, max_size=8)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(data=st.data())
def test_what_stands_between_does_not_count(dialect: Dialect, data: st.DataObject) -> None:
    """White space and comments between the tokens do not change them."""
    made = data.draw(statements(dialect))
    gaps = data.draw(st.lists(_between, min_size=len(made) + 1, max_size=len(made) + 1))
    text = "".join(f"{gap}{token}" for gap, token in zip(gaps, [*made, ""], strict=True))
    assert tokens(text, dialect) == tuple(made)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(data=st.data())
def test_anything_else_counts(dialect: Dialect, data: st.DataObject) -> None:
    """Two statements with different tokens are never equal."""
    one, other = data.draw(statements(dialect)), data.draw(statements(dialect))
    assume(one != other)
    assert tokens(" ".join(one), dialect) != tokens(" ".join(other), dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
@given(text=st.text("a1 'x\"`[]-/*\n\\$é:;", max_size=30))
def test_every_text_has_tokens(dialect: Dialect, text: str) -> None:
    """Any text has tokens, and only white space and comments are left out."""
    found = tokens(text, dialect)
    assert all(found)
    if "--" not in text and "/*" not in text:
        kept = "".join(found)
        assert [c for c in kept if c not in " \n"] == [c for c in text if c not in " \n"]


@pytest.mark.parametrize(
    ("one", "other", "dialect", "same"),
    [
        ("SELECT 1", "SELECT\n  1 -- one", "sqlite", True),
        ("SELECT 'a  b'", "SELECT 'a b'", "sqlite", False),
        ("SELECT '--a'", "SELECT '--b'", "sqlite", False),
        ("SELECT '/* a */'", "SELECT '/* b */'", "sqlite", False),
        ("SELECT a", "select a", "sqlite", False),
        ("SELECT ab", "SELECT a b", "sqlite", False),
        ("t(a)", "t (a)", "sqlite", True),
        ("'a''b'", "'a' 'b'", "sqlite", False),
        ("x'00'", "x '00'", "sqlite", False),
        ("a\u00a0b", "a b", "sqlite", False),
        ("a /* /* */ b", "a b", "sqlite", True),
        ("a /* /* */ */ b", "a b", "postgresql", True),
        ("a /* /* */ b */", "a b", "postgresql", False),
        ("$$ it's -- a $$", "$$ it's -- b $$", "postgresql", False),
        (r"E'\' -- a'", r"E'\' -- b'", "postgresql", False),
        ("a :: text", "a::text", "postgresql", True),
        ("SELECT 1;", "SELECT 1", "sqlite", False),
    ],
)
def test_the_same_or_not(one: str, other: str, dialect: Dialect, same: bool) -> None:
    """Each engine's rules decide whether two texts are equal."""
    assert (tokens(one, dialect) == tokens(other, dialect)) is same


def test_sqlite_reads_the_tokens_as_it_reads_the_statement() -> None:
    """The tokens of every revision, joined with spaces, create the same database."""
    scripts, _ = read_scripts(SCRIPTS / "versions")
    said = emit_sql(load_history(SCRIPTS), {script.id: script.path for script in scripts})
    found = []
    for spell in (str, lambda sql: " ".join(tokens(sql))):
        with closing(sqlite3.connect(":memory:")) as connection:
            for script in scripts:
                for one in said.statements[script.path.name, "sqlite", "upgrade"]:
                    connection.execute(spell(one.sql))
            query = "SELECT m.name, x.* FROM sqlite_master AS m, pragma_table_xinfo(m.name) AS x"
            found.append(connection.execute(query).fetchall())
    assert found[0] == found[1]
    assert len(found[0]) > 50


def test_words_are_for_questions() -> None:
    """Tokens are in upper case and names unquoted; literals are unchanged."""
    assert normalized('create table "My Table" (a);', "sqlite") == (
        "CREATE",
        "TABLE",
        "MY TABLE",
        "(",
        "A",
        ")",
    )
    assert normalized("SELECT 'it''s'", "sqlite") == ("SELECT", "'it''s'")
