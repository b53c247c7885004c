"""What a revision may not say to a database, and what a released one should not. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from nextcloud_mcp_server.authoring.lint.docstrings import CHANGES, says_why
from nextcloud_mcp_server.authoring.lint.emitted_sql import (
    DIRECTIONS,
    Direction,
    Emitted,
    Statement,
)
from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS, Dialect, words
from nextcloud_mcp_server.authoring.lint.released import DELETES, code_digest
from nextcloud_mcp_server.authoring.lint.rules import Problem, listed, problem
from nextcloud_mcp_server.authoring.lint.version_files import PLACEHOLDER, Script

Words = tuple[str, ...]

_TRANSACTION: Final = listed(
    "ATTACH BEGIN COMMIT DETACH END PRAGMA RELEASE ROLLBACK SAVEPOINT SET START VACUUM"
)

#: Words, and functions (with their parenthesis), that the other engine does not know.
_ONLY: Final[Mapping[Dialect, frozenset[str]]] = {
    "sqlite": listed(
        "AUTOINCREMENT BLOB DATETIME GLOB NOCASE PRAGMA ROWID SQLITE_MASTER SQLITE_SCHEMA "
        "DATETIME( GROUP_CONCAT( HEX( IFNULL( INSTR( JSON_EXTRACT( JULIANDAY( "
        "LAST_INSERT_ROWID( RANDOMBLOB( STRFTIME( TYPEOF( UNIXEPOCH( ZEROBLOB("
    ),
    "postgresql": listed(
        "BIGSERIAL BYTEA CONCURRENTLY IDENTITY ILIKE JSONB SERIAL SMALLSERIAL TIMESTAMPTZ "
        "TRUNCATE DECODE( ENCODE( EXTRACT( GEN_RANDOM_UUID( GREATEST( LEAST( NOW( "
        "REGEXP_REPLACE( SPLIT_PART( STRING_AGG( TO_TIMESTAMP("
    ),
}
_NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}

#: The helper that changes values in Python, which no SQL says: it writes a comment.
_REWRITES: Final = "rewrite"

_MODIFIERS: Final = frozenset({"TEMP", "TEMPORARY", "UNIQUE", "VIRTUAL", "UNLOGGED"})

#: The most characters of a statement that a message repeats.
_LONGEST: Final = 60


@dataclass(frozen=True)
class _Speech:
    """All that one direction of one revision says to one dialect.

    Attributes:
        said: its statements, each with its words.
        made: tables that it creates, or makes again under an old name.
    """

    script: Script
    way: Direction
    dialect: Dialect
    said: Sequence[tuple[Statement, Words]]
    made: frozenset[str]

    @property
    def declared(self) -> bool:
        """Whether the docstring says what the upgrade does to rows."""
        said = self.script.label(CHANGES)
        return self.way != "upgrade" or any(w and PLACEHOLDER not in w for _, w in said)

    def problem(self, rule: str, one: Statement, why: str) -> Problem:
        text = f"{excerpt(one.sql)} {why}."
        return problem(rule, self.script.path, one.line, text)


def excerpt(sql: str) -> str:
    """The beginning of a statement, on one line, in quotes."""
    text = " ".join(sql.split())
    return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")


def statement_problems(script: Script, emitted: Emitted) -> Iterator[Problem]:
    """What is wrong with what ``script`` says, to each dialect, up and down."""
    found: dict[Problem, None] = {}
    for dialect in DIALECTS:
        for way in DIRECTIONS:
            said = emitted.statements.get((script.path.name, dialect, way))
            if said is not None:
                found |= dict.fromkeys(_problems(_speech(script, way, dialect, said)))
    yield from found
    yield from _empty(script, emitted)


def _speech(script: Script, way: Direction, dialect: Dialect, said: Sequence[Statement]) -> _Speech:
    pairs = [(one, words(one.sql, dialect)) for one in said]
    made = {name for _, w in pairs for name in (created(w), renamed(w)[1]) if name}
    return _Speech(script, way, dialect, pairs, frozenset(made))


def _problems(speech: _Speech) -> Iterator[Problem]:
    for one, said in speech.said:
        if said and said[0] in _TRANSACTION and not one.helper:
            yield speech.problem("transaction-control", one, "is not a revision's to say")
            continue
        if unknown := _unknown(said, speech.dialect):
            why = f"is sent to {_NAMES[speech.dialect]}, which does not know {unknown}"
            yield speech.problem("dialect-only", one, why)
        if not one.helper and (why := not_idempotent(said, speech.made)):
            yield speech.problem("not-idempotent", one, why)
        if speech.way == "upgrade" and not speech.declared:
            if why := dropping(said, speech.made):
                yield speech.problem("drop-without-recreation", one, why)
            elif (table := changed(said)) and table not in speech.made:
                yield speech.problem("undeclared-change", one, f"changes rows of {table.lower()}")
            elif one.helper == _REWRITES:
                yield speech.problem("undeclared-change", one, "and no docstring says so")
        yield from _deletes(speech, one, said)


def _deletes(speech: _Speech, one: Statement, said: Words) -> Iterator[Problem]:
    if said[:2] != ("DELETE", "FROM") and said[:1] != ("TRUNCATE",):
        return
    table = changed(said)
    value: Any = speech.script.values.get(DELETES, ((), 1))[0]
    named = {str(n).upper() for n in value} if isinstance(value, tuple | list | set) else set()
    if table not in named | speech.made:
        why = f"deletes rows of {table.lower()}, which {DELETES} does not name"
        yield speech.problem("undeclared-delete", one, why)


def _empty(script: Script, emitted: Emitted) -> Iterator[Problem]:
    """Report a downgrade that does nothing and does not say why."""
    keys = [(script.path.name, dialect, "downgrade") for dialect in DIALECTS]
    sent = [emitted.statements.get(key, (None,)) for key in keys]
    if not (any(sent) or code_digest(script.tree) or says_why(script, "downgrade")):
        line = script.line_of("downgrade")
        yield problem("empty-downgrade", script.path, line, "The downgrade does nothing.")


def _unknown(said: Words, dialect: Dialect) -> str:
    """The first word that only the other engine knows; empty where there is none."""
    other = next(name for name in DIALECTS if name != dialect)
    for word, after in zip_longest(said, said[1:], fillvalue=""):
        if word in _ONLY[other] or (after == "(" and f"{word}(" in _ONLY[other]):
            return word
    if other == "sqlite" and said[:1] in (("INSERT",), ("UPDATE",)) and said[1:2] == ("OR",):
        return " ".join(said[:3])
    if other == "sqlite" and said[:2] == ("REPLACE", "INTO"):
        return "REPLACE INTO"
    if other == "postgresql" and _pairs(said, (":", ":")):
        return "::"
    if other == "postgresql" and said[:1] == ("ALTER",) and _pairs(said, ("ALTER", "COLUMN")):
        return "ALTER COLUMN"
    return ""


def _pairs(said: Words, wanted: Words) -> bool:
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said)))


def _kind(said: Words) -> tuple[str, Words]:
    """What a CREATE or DROP is about, and the words after it."""
    rest = list(said[1:])
    while rest and rest[0] in _MODIFIERS:
        rest.pop(0)
    return (rest[0], tuple(rest[1:])) if rest else ("", ())


def _name(said: Words) -> str:
    """The name that stands first, without a schema, IF EXISTS and the like."""
    rest = [word for word in said if word not in ("IF", "NOT", "EXISTS", "ONLY", "CONCURRENTLY")]
    if not rest:
        return ""
    return rest[2] if rest[1:2] == ["."] and len(rest) > 2 else rest[0]  # noqa: PLR2004 - a.b


def created(said: Words) -> str:
    """The table that a statement creates; empty where it creates none."""
    kind, rest = _kind(said)
    return _name(rest) if said[:1] == ("CREATE",) and kind == "TABLE" else ""


def renamed(said: Words) -> Words:
    """The old and the new name of a table; two empty ones where it renames none."""
    if said[:2] == ("ALTER", "TABLE") and said[-3:-1] == ("RENAME", "TO"):
        return (_name(said[2:]), said[-1])
    return ("", "")


def changed(said: Words) -> str:
    """The table whose rows a statement changes; empty where it changes none."""
    match said:
        case ("INSERT", "OR", _, "INTO", *rest) | ("INSERT" | "REPLACE", "INTO", *rest):
            return _name(tuple(rest))
        case ("DELETE", "FROM", *rest) | ("UPDATE", "OR", _, *rest) | ("UPDATE", *rest):
            return _name(tuple(rest))
        case ("TRUNCATE", *rest):
            return _name(tuple(word for word in rest if word != "TABLE"))
    return ""


def dropping(said: Words, made: frozenset[str]) -> str:
    """Why a statement loses what is there, as the end of a sentence; empty where it does not.

    Args:
        said: its words.
        made: tables that the same revision creates, or makes again.
    """
    kind, rest = _kind(said)
    if said[:1] == ("DROP",) and kind in ("TABLE", "VIEW"):
        return "" if _name(rest) in made else f"drops {_name(rest).lower()} with what is in it"
    if said[:2] != ("ALTER", "TABLE") or _name(said[2:]) in made:
        return ""
    for verb, why in (("DROP", "drops a part of"), ("ALTER", "changes"), ("RENAME", "renames in")):
        if verb in said[2:]:
            return f"{why} {_name(said[2:]).lower()}"
    return ""


def not_idempotent(said: Words, made: frozenset[str]) -> str:
    """Why a second run fails, or does it again; empty where neither shows.

    Args:
        said: its words.
        made: tables that the same revision creates, or makes again.
    """
    kind, rest = _kind(said)
    match said[0] if said else "":
        case "CREATE" if "IF" not in rest[:2] and said[1:3] != ("OR", "REPLACE"):
            table = _name(tuple(rest[rest.index("ON") + 1 :])) if "ON" in rest else ""
            # A table that was made again has lost its indexes, so that they are made again.
            again = kind == "INDEX" and table in made
            return "" if again else "fails where it is there already"
        case "DROP" if "IF" not in rest[:1] and _name(rest) not in made:
            return "fails where it is gone already"
        case "ALTER" if not (renamed(said)[1] or _pairs(said, ("EXISTS",))):
            return "fails where it is done already"
        case "INSERT" if not _skips(said) and changed(said) not in made:
            return "adds the rows a second time, or fails"
        case "UPDATE" if _repeats(said):
            return "changes the rows again"
    return ""


def _skips(said: Words) -> bool:
    """Whether an INSERT leaves out what is there."""
    return said[1] == "OR" or _pairs(said, ("ON", "CONFLICT")) or _pairs(said, ("NOT", "EXISTS"))


def _repeats(said: Words) -> bool:
    """Whether an UPDATE makes a value of itself, and no WHERE asks about it."""
    if "SET" not in said:
        return False
    start = said.index("SET") + 1
    end = said.index("WHERE") if "WHERE" in said else len(said)
    column, value, asked = said[start], said[start + 2 : end], said[end:]
    return bool(re.fullmatch(r"\w+", column)) and column in value and column not in asked
