"""Read and write the text of a CREATE TABLE of SQLite, one declaration at a time.

SQLite keeps a table as the text that made it, and only the text has everything: collations,
checks, generated columns. Pure: nothing is asked of a database here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""(?P<blank>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|[(),]
                 |(?:[^\s(),'"`\[/-]|/(?!\*)|-(?!-))+|.)""",
    re.DOTALL | re.VERBOSE,
)
_QUOTED_WORD = re.compile(r'(["`\[])(\w+)["`\]]')
_CONSTRAINT = frozenset({"constraint", "primary", "unique", "check", "foreign"})
_GENERATED = re.compile(r"\b(generated always )?as \(")
_INTEGER = re.compile(r"\S+ integer($| (not|null|primary|constraint|default|check|unique)\b)")
_KEY = re.compile(r"(?:constraint \S+ )?primary key \( (\S+) \)")


class Declaration(NamedTuple):
    """A column or a constraint of a table.

    Attributes:
        text: as it was written, without comments.
    """

    text: str

    @property
    def tokens(self) -> list[str]:
        """Its words, quoted texts and punctuation."""
        return [m["text"] for m in _TOKEN.finditer(self.text) if m["text"]]

    @property
    def plain(self) -> str:
        """What two declarations that mean the same have in common."""
        return " ".join(
            t if t[0] == "'" else _QUOTED_WORD.sub(r"\2", t).lower() for t in self.tokens
        )

    @property
    def is_constraint(self) -> bool:
        """Whether it is of the table, not of one column."""
        return self.tokens[0].lower() in _CONSTRAINT

    @property
    def name(self) -> str:
        """The name of a column, without quotes."""
        first = self.tokens[0]
        if first[0] in "\"'`":
            return first[1:-1].replace(first[0] * 2, first[0])
        return first[1:-1] if first[0] == "[" else first

    @property
    def is_generated(self) -> bool:
        """Whether SQLite computes the column, so that nobody may insert into it."""
        return bool(_GENERATED.search(self.plain))

    def names(self, column: str) -> bool:
        """Whether the declaration has the word ``column`` in it."""
        return mentions(self.text, column)


class Declared(NamedTuple):
    """A table as its declarations.

    Attributes:
        columns: by lower-cased name, in order.
        constraints: those of the table.
        options: what stands behind the parenthesis: WITHOUT ROWID, STRICT.
    """

    columns: dict[str, Declaration]
    constraints: tuple[Declaration, ...]
    options: str

    @classmethod
    def read(cls, sql: str) -> Declared:
        """Read a CREATE TABLE that SQLite has accepted."""
        parts, behind, depth = [""], "", 0
        for match in _TOKEN.finditer(sql):
            part = match["text"] or " "
            depth -= part == ")"
            if depth == 1 and part == ",":
                parts.append("")
            elif depth:
                parts[-1] += part
            elif parts[-1] and part != ")":
                behind += part
            depth += part == "("
        found = [Declaration(text) for body in parts if (text := body.strip())]
        columns = {d.name.lower(): d for d in found if not d.is_constraint}
        return cls(columns, tuple(d for d in found if d.is_constraint), behind.strip())

    @property
    def counts(self) -> bool:
        """Whether it never gives a number of its key again (AUTOINCREMENT)."""
        return any(" autoincrement" in d.plain for d in self.columns.values())

    @property
    def numbers_rows(self) -> bool:
        """Whether a column of it is another name of the rowid."""
        keys = {k[1] for d in self.constraints if (k := _KEY.fullmatch(d.plain))}
        return any(
            _INTEGER.match(d.plain) and (name in keys or " primary key" in d.plain)
            for name, d in self.columns.items()
        )

    @property
    def rowid(self) -> str | None:
        """A name by which its rowid is reached; None where it has none."""
        if "without" in self.options.lower():
            return None
        free = (n for n in ("rowid", "_rowid_", "oid") if n not in self.columns)
        return next(free, None)

    def turned_into(self, wanted: Declared, drop: frozenset[str]) -> Declared:
        """``wanted`` with what somebody else added to this table.

        A column that is neither wanted nor dropped stays, and with it the constraints of the
        table that name it.
        """
        surplus = {
            name: declaration
            for name, declaration in self.columns.items()
            if name not in wanted.columns and name not in drop
        }
        ours = {d.plain for d in wanted.constraints}
        theirs = tuple(
            d
            for d in self.constraints
            if d.plain not in ours and any(d.names(name) for name in surplus)
        )
        return Declared(
            wanted.columns | surplus, wanted.constraints + theirs, wanted.options or self.options
        )

    def same_as(self, other: Declared) -> bool:
        """Whether both declare the same, in whatever order."""
        return (
            {n: d.plain for n, d in self.columns.items()}
            == {n: d.plain for n, d in other.columns.items()}
            and {d.plain for d in self.constraints} == {d.plain for d in other.constraints}
            and self.options.lower() == other.options.lower()
        )

    def sql(self, name: str) -> str:
        """The statement that makes this table under ``name``."""
        parts = [*self.columns.values(), *self.constraints]
        body = ", \n\t".join(part.text for part in parts)
        return f"CREATE TABLE {quoted(name)} (\n\t{body}\n){self.options and ' ' + self.options}"


def quoted(name: str) -> str:
    """``name`` as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def mentions(sql: str, column: str) -> bool:
    """Whether ``sql`` has the word ``column`` in it."""
    return bool(re.search(rf"\b{re.escape(column)}\b", sql, re.IGNORECASE))
