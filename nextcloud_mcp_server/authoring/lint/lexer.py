"""Split SQL into tokens. Pure.

Only white space and comments outside literals are left out, so two statements with the same
tokens mean the same. The lexical rules are SQLite's (https://www.sqlite.org/lang.html) and
PostgreSQL's (https://www.postgresql.org/docs/current/sql-syntax-lexical.html).
"""

from __future__ import annotations

import re
from typing import Final, Literal

Dialect = Literal["sqlite", "postgresql"]

DIALECTS: Final[tuple[Dialect, ...]] = ("sqlite", "postgresql")

# Not \s and \w: for both engines a no-break space is part of a name.
_COMMON: Final = r"""
    (?P<space> [ \t\n\r\f\v]+ | --[^\n]*)
  | (?P<opens> /\*)
  | (?P<token>
        {more}
        (?: {prefix} )? ' (?: [^'] | '' )* (?: ' | \Z )
      | " (?: [^"] | "" )* (?: " | \Z )
      | (?: [0-9] | \.(?=[0-9]) ) [0-9._]* (?: [eE][+-]?[0-9]+ )? [A-Za-z_0-9]*
      | [A-Za-z_\x80-\U0010ffff] [A-Za-z_0-9$\x80-\U0010ffff]*
      | .
    )
"""
#: The prefixes of a literal, and further tokens.
_OWN: Final = {
    "sqlite": ("[xX]", r"` (?: [^`] | `` )* (?: ` | \Z ) | \[ [^\]]* (?: \] | \Z ) |"),
    "postgresql": (
        "[bBnNxX] | [uU]&",
        r"""
        [eE] ' (?: [^'\\] | \\. | '' )* (?: ' | \Z )
      | (?P<tag> \$ (?: [A-Za-z_\x80-\U0010ffff][A-Za-z_0-9\x80-\U0010ffff]* )? \$ )
        .*? (?: (?P=tag) | \Z ) |
        """,
    ),
}
_LEXER: Final = {
    dialect: re.compile(_COMMON.format(prefix=prefix, more=more), re.VERBOSE | re.DOTALL)
    for dialect, (prefix, more) in _OWN.items()
}
_EDGE: Final = re.compile(r"/\*|\*/")


def tokens(sql: str, dialect: Dialect = "sqlite") -> tuple[str, ...]:
    """Return the tokens of ``sql`` without white space and comments."""
    found, position = [], 0
    while match := _LEXER[dialect].match(sql, position):
        position = match.end()
        if match["opens"]:
            position = _end_of_comment(sql, position, nests=dialect == "postgresql")
        elif match["token"]:
            found.append(match["token"])
    return tuple(found)


def _end_of_comment(sql: str, position: int, *, nests: bool) -> int:
    depth = 1
    for edge in _EDGE.finditer(sql, position):
        if edge[0] == "*/":
            depth -= 1
        elif nests:
            depth += 1
        if not depth:
            return edge.end()
    return len(sql)


def normalized(sql: str, dialect: Dialect) -> tuple[str, ...]:
    """Return the tokens in upper case, names unquoted, without the last semicolon.

    String literals are unchanged.
    """
    found = [_normalized(token) for token in tokens(sql, dialect)]
    while found and found[-1] == ";":
        found.pop()
    return tuple(found)


def _normalized(token: str) -> str:
    if len(token) > 1 and token[0] in '"`[':
        token = token[1:-1]
    return token if "'" in token else token.upper()
