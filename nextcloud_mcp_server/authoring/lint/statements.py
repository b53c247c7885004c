"""Check the SQL of a revision. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from nextcloud_mcp_server.authoring.lint.docstrings import CHANGES, has_docstring
from nextcloud_mcp_server.authoring.lint.emitted_sql import (
    DIRECTIONS,
    Direction,
    Emitted,
    Statement,
)
from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS, Dialect, normalized
from nextcloud_mcp_server.authoring.lint.released import DELETES, code_digest
from nextcloud_mcp_server.authoring.lint.rules import Problem, problem
from nextcloud_mcp_server.authoring.lint.version_files import PLACEHOLDER, Script

Tokens = tuple[str, ...]

_TRANSACTION: Final = (
    "ATTACH BEGIN COMMIT DETACH END PRAGMA RELEASE ROLLBACK SAVEPOINT SET START VACUUM"
)

#: Keywords, and functions with their parenthesis, that only this engine supports.
_ONLY: Final[Mapping[Dialect, str]] = {
    "sqlite": (
        "AUTOINCREMENT BLOB DATETIME GLOB NOCASE PRAGMA ROWID SQLITE_MASTER SQLITE_SCHEMA "
        "DATETIME( GROUP_CONCAT( HEX( IFNULL( INSTR( JSON_EXTRACT( JULIANDAY( "
        "LAST_INSERT_ROWID( RANDOMBLOB( STRFTIME( TYPEOF( UNIXEPOCH( ZEROBLOB("
    ),
    "postgresql": (
        "BIGSERIAL BYTEA CONCURRENTLY IDENTITY ILIKE JSONB SERIAL SMALLSERIAL TIMESTAMPTZ "
        "TRUNCATE DECODE( ENCODE( EXTRACT( GEN_RANDOM_UUID( GREATEST( LEAST( NOW( "
        "REGEXP_REPLACE( SPLIT_PART( STRING_AGG( TO_TIMESTAMP("
    ),
}
_NAMES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}

#: The guard that changes values in Python; offline it writes a comment.
_REWRITES: Final = "rewrite"

_SKIPPING: Final = (("ON", "CONFLICT"), ("NOT", "EXISTS"))
_MODIFIERS: Final = frozenset({"TEMP", "TEMPORARY", "UNIQUE", "VIRTUAL", "UNLOGGED"})


@dataclass(frozen=True)
class _Sql:
    """The SQL of a revision for one dialect, and the tables that it creates or recreates."""

    script: Script
    way: Direction
    dialect: Dialect
    statements: Sequence[tuple[Statement, Tokens]]
    created: frozenset[str]

    @property
    def declared(self) -> bool:
        """Whether the docstring has a line "Upgrade changes:"."""
        lines = self.script.label(CHANGES)
        return any(text and PLACEHOLDER not in text for _, text in lines)

    def problem(self, rule: str, one: Statement, why: str) -> Problem:
        return problem(rule, self.script.path, one.line, f"{one.excerpt} {why}.")


def statement_problems(script: Script, emitted: Emitted) -> Iterator[Problem]:
    """Yield the problems of the SQL of ``script``, for each dialect, up and down."""
    found: dict[Problem, None] = {}
    for dialect in DIALECTS:
        for way in DIRECTIONS:
            sent = emitted.statements.get((script.path.name, dialect, way), ())
            found |= dict.fromkeys(_problems(_parsed(script, way, dialect, sent)))
    yield from found
    yield from _empty(script, emitted)


def _parsed(script: Script, way: Direction, dialect: Dialect, sent: Sequence[Statement]) -> _Sql:
    pairs = [(one, normalized(one.sql, dialect)) for one in sent]
    names = {name for _, tokens in pairs for name in (created(tokens), renamed(tokens)[1])}
    return _Sql(script, way, dialect, pairs, frozenset(names - {""}))


def _problems(sql: _Sql) -> Iterator[Problem]:
    for one, tokens in sql.statements:
        if tokens and tokens[0] in _TRANSACTION.split() and not one.helper:
            why = "controls the transaction or sets a pragma"
            yield sql.problem("transaction-control", one, why)
            continue
        if unknown := _unknown(tokens, sql.dialect):
            why = f"is sent to {_NAMES[sql.dialect]}, which does not support {unknown}"
            yield sql.problem("dialect-only", one, why)
        if not one.helper and (why := not_idempotent(tokens, sql.created)):
            yield sql.problem("not-idempotent", one, why)
        if sql.way == "upgrade" and not sql.declared:
            if why := dropping(tokens, sql.created):
                yield sql.problem("drop-without-recreation", one, why)
            elif (table := changed(tokens)) and table not in sql.created:
                yield sql.problem("undeclared-change", one, f"changes rows of {table.lower()}")
            elif one.helper == _REWRITES:
                yield sql.problem("undeclared-change", one, "is not in the docstring")
        yield from _deletes(sql, one, tokens)


def _deletes(sql: _Sql, one: Statement, tokens: Tokens) -> Iterator[Problem]:
    if tokens[:2] != ("DELETE", "FROM") and tokens[:1] != ("TRUNCATE",):
        return
    table = changed(tokens)
    value: Any = sql.script.values.get(DELETES, ((), 1))[0]
    named = {str(n).upper() for n in value} if isinstance(value, tuple | list | set) else set()
    if table not in named | sql.created:
        why = f"deletes rows of {table.lower()}, which is not in {DELETES}"
        yield sql.problem("undeclared-delete", one, why)


def _empty(script: Script, emitted: Emitted) -> Iterator[Problem]:
    """Report a downgrade that does nothing and gives no reason."""
    sent = [emitted.statements.get((script.path.name, d, "downgrade")) for d in DIALECTS]
    if sent == [(), ()] and not (code_digest(script.tree) or has_docstring(script, "downgrade")):
        line = script.line_of("downgrade")
        yield problem("empty-downgrade", script.path, line, "The downgrade does nothing.")


def _unknown(tokens: Tokens, dialect: Dialect) -> str:
    """Return the first token that only the other engine supports; empty if there is none."""
    other = next(name for name in DIALECTS if name != dialect)
    only = _ONLY[other].split()
    for word, after in zip_longest(tokens, tokens[1:], fillvalue=""):
        if word in only or (after == "(" and f"{word}(" in only):
            return word
    if other == "sqlite" and tokens[:1] in (("INSERT",), ("UPDATE",)) and tokens[1:2] == ("OR",):
        return " ".join(tokens[:3])
    if other == "sqlite" and tokens[:2] == ("REPLACE", "INTO"):
        return "REPLACE INTO"
    if other == "postgresql" and _contains(tokens, (":", ":")):
        return "::"
    alters_column = tokens[:1] == ("ALTER",) and _contains(tokens, ("ALTER", "COLUMN"))
    if other == "postgresql" and alters_column:
        return "ALTER COLUMN"
    return ""


def _contains(tokens: Tokens, wanted: Tokens) -> bool:
    return any(tokens[i : i + len(wanted)] == wanted for i in range(len(tokens)))


def _kind(tokens: Tokens) -> tuple[str, Tokens]:
    """Return the kind of object that a CREATE or DROP names, and the tokens after it."""
    rest = list(tokens[1:])
    while rest and rest[0] in _MODIFIERS:
        rest.pop(0)
    return (rest[0], tuple(rest[1:])) if rest else ("", ())


def _name(tokens: Tokens) -> str:
    """Return the first name, without a schema, IF EXISTS and the like."""
    rest = [word for word in tokens if word not in ("IF", "NOT", "EXISTS", "ONLY", "CONCURRENTLY")]
    if not rest:
        return ""
    return rest[2] if rest[1:2] == ["."] and len(rest) > 2 else rest[0]  # noqa: PLR2004 - a.b


def created(tokens: Tokens) -> str:
    """Return the table that a statement creates; empty if it creates none."""
    kind, rest = _kind(tokens)
    return _name(rest) if tokens[:1] == ("CREATE",) and kind == "TABLE" else ""


def renamed(tokens: Tokens) -> Tokens:
    """Return the old and the new name of a renamed table; both empty if there is none."""
    if tokens[:2] == ("ALTER", "TABLE") and tokens[-3:-1] == ("RENAME", "TO"):
        return (_name(tokens[2:]), tokens[-1])
    return ("", "")


def changed(tokens: Tokens) -> str:
    """Return the table whose rows a statement changes; empty if there is none."""
    match tokens:
        case ("INSERT", "OR", _, "INTO", *rest) | ("INSERT" | "REPLACE", "INTO", *rest):
            return _name(tuple(rest))
        case ("DELETE", "FROM", *rest) | ("UPDATE", "OR", _, *rest) | ("UPDATE", *rest):
            return _name(tuple(rest))
        case ("TRUNCATE", *rest):
            return _name(tuple(word for word in rest if word != "TABLE"))
    return ""


def dropping(tokens: Tokens, exempt: frozenset[str]) -> str:
    """Return how a statement loses data, as the end of a sentence; empty if it does not.

    ``exempt`` are the tables that the same revision creates.
    """
    kind, rest = _kind(tokens)
    if tokens[:1] == ("DROP",) and kind in ("TABLE", "VIEW"):
        return "" if _name(rest) in exempt else f"drops {_name(rest).lower()}"
    if tokens[:2] != ("ALTER", "TABLE") or _name(tokens[2:]) in exempt:
        return ""
    for verb, why in (("DROP", "drops a part of"), ("ALTER", "changes"), ("RENAME", "renames in")):
        if verb in tokens[2:]:
            return f"{why} {_name(tokens[2:]).lower()}"
    return ""


def not_idempotent(tokens: Tokens, exempt: frozenset[str]) -> str:
    """Return why a statement must not run twice, as the end of a sentence; empty if it may.

    ``exempt`` are the tables that the same revision creates.
    """
    kind, rest = _kind(tokens)
    match tokens[0] if tokens else "":
        case "CREATE" if "IF" not in rest[:2] and tokens[1:3] != ("OR", "REPLACE"):
            table = _name(tuple(rest[rest.index("ON") + 1 :])) if "ON" in rest else ""
            # A recreated table has lost its indexes, so they do not exist.
            again = kind == "INDEX" and table in exempt
            return "" if again else "fails if it exists already"
        case "DROP" if "IF" not in rest[:1] and _name(rest) not in exempt:
            return "fails if it does not exist"
        case "ALTER" if not (renamed(tokens)[1] or _contains(tokens, ("EXISTS",)) or _sets(rest)):
            return "fails on a second run"
        case "INSERT" if not _skips(tokens) and changed(tokens) not in exempt:
            return "adds the rows a second time or fails"
        case "UPDATE" if _repeats(tokens):
            return "changes the rows again on a second run"
    return ""


def _sets(rest: Tokens) -> bool:
    """Return whether an ALTER only sets or resets parameters: ``t SET (fillfactor = 80)``."""
    clause = rest[3:] if rest[1:2] == (".",) else rest[1:]
    return clause[:2] in (("SET", "("), ("RESET", "(")) and clause.index(")") == len(clause) - 1


def _skips(tokens: Tokens) -> bool:
    """Return whether an INSERT skips existing rows."""
    return tokens[1] == "OR" or any(_contains(tokens, p) for p in _SKIPPING)


def _repeats(tokens: Tokens) -> bool:
    """Return whether an UPDATE computes a value from itself without a WHERE on it."""
    if "SET" not in tokens:
        return False
    start = tokens.index("SET") + 1
    end = tokens.index("WHERE") if "WHERE" in tokens else len(tokens)
    column, value, where = tokens[start], tokens[start + 2 : end], tokens[end:]
    return bool(re.fullmatch(r"\w+", column)) and column in value and column not in where
