"""Every rule of ``db lint``: what is wrong, what to do, and whether it refuses.

``docs/reference/lint.md`` is made of this table, and a test holds the page to it. A remedy
may name what it is about: ``{FILE}``, ``{REV}`` and ``{PARENT}`` are filled in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        refuses: whether a revision that breaks it is refused; else it is noted, and refused
            with ``--strict`` only.
        what: what is wrong, in one sentence.
        remedy: what to do about it.
    """

    refuses: bool
    what: str
    remedy: str


_RENUMBER: Final = "nextcloud-mcp-server db migrate --renumber {FILE}"

RULES: Final = MappingProxyType(
    {
        "file-name": Rule(
            True,
            "A file in versions/ is not called YYYYMMDD_HHMM_XXX_description.py, or its date is "
            "before that of the revision that it follows.",
            "Rename it, or move it out of versions/: Alembic runs every .py file there.",
        ),
        "not-python": Rule(
            True, "The file cannot be read as Python.", "Mend it where the line points."
        ),
        "revision-id": Rule(
            True,
            "The revision is not the id in the file's name, or that is not the next number.",
            f"Let the tool write name and id: {_RENUMBER}",
        ),
        "duplicated-id": Rule(
            True,
            "Two files have the same id.",
            f"Give the one that nobody else has run yet the next id: {_RENUMBER}",
        ),
        "broken-chain": Rule(
            True,
            "The down_revision is missing or is not the id just below, or branch_labels or "
            "depends_on is not None.",
            "The revisions are one line: set down_revision to {PARENT}, the other two to None.",
        ),
        "second-head": Rule(
            True,
            "Two revisions follow the same one, so that there are two heads.",
            f"Put this one at the end of the line: {_RENUMBER}",
        ),
        "missing-function": Rule(
            True,
            "The file has no upgrade() or no downgrade().",
            "Write it; a downgrade undoes what the upgrade does.",
        ),
        "empty-downgrade": Rule(
            True,
            "The downgrade does nothing, and its docstring does not say why.",
            "Undo what the upgrade does; where nothing is to be undone, say why in the docstring "
            "of downgrade().",
        ),
        "loses-missing": Rule(
            True,
            'The docstring has no line "Downgrade loses:", or several, or it is not filled in.',
            'Say there what cannot be brought back, or "Downgrade loses: nothing."; the command '
            "repeats it before it asks.",
        ),
        "application-import": Rule(
            True,
            "The file imports code of the application, which will have changed when it runs.",
            "Write what it needs into the file: a revision is history.",
        ),
        "transaction-control": Rule(
            True,
            "A statement begins or ends a transaction, or sets a pragma.",
            "Leave it out: a revision is one step of the one transaction that the program ends.",
        ),
        "undeclared-delete": Rule(
            True,
            "A statement deletes rows of a table that DELETES_ROWS_FROM does not name, so that "
            "every upgrade that it deletes from is rolled back.",
            'Write DELETES_ROWS_FROM = ("table",) below depends_on, if they are to be lost.',
        ),
        "fails": Rule(
            True,
            "The revision fails where its SQL is written, or in an empty database, up or down.",
            "Mend it; where it needs a connection, ask op.get_context().as_sql first.",
        ),
        "edited-release": Rule(
            True,
            "A released revision says something else than when it was released; comments and "
            "formatting may change, meaning may not.",
            "Undo the edit, and write a new revision. See what it says with: "
            "nextcloud-mcp-server db show {REV}",
        ),
        "deleted-release": Rule(
            True,
            "A released revision is gone, and databases that record it could not be opened.",
            "Put the file back: git checkout HEAD -- FILE; where its deletion is committed, "
            "git log --diff-filter=D --summary names FILE and the commit to go behind.",
        ),
        "released-file": Rule(
            True,
            "The file of the released revisions cannot be read.",
            "Take it back from the repository's history.",
        ),
        "stale-structure": Rule(
            True,
            "The file of the structures is not what the migrations make.",
            "Generate it anew: nextcloud-mcp-server db lint --fix",
        ),
        "dialect-only": Rule(
            False,
            "A statement that only one of SQLite and PostgreSQL understands is sent to the other.",
            "Use the guards or Alembic's operations, or branch on op.get_context().dialect.name.",
        ),
        "drop-without-recreation": Rule(
            False,
            "An upgrade drops a table or changes a column, and neither makes the table again with "
            "its rows nor says so.",
            "Use guards.recreate_table, or copy the rows into a new table and rename it; what is "
            'to be lost, say in a line "Upgrade changes:" of the docstring.',
        ),
        "not-idempotent": Rule(
            False,
            "A statement fails or does it again where its result is there already.",
            "Use the guards, or IF NOT EXISTS, IF EXISTS, ON CONFLICT, or a WHERE that leaves "
            "out what is done.",
        ),
        "undeclared-change": Rule(
            False,
            'An upgrade changes rows, and its docstring has no line "Upgrade changes:".',
            "Say there which rows change, and how: db history shows it.",
        ),
        "description": Rule(
            False,
            "The file has no docstring.",
            'Say what the revision does, beginning with a verb: "Add a table", "Drop a column".',
        ),
        "unfinished": Rule(
            False,
            "A place of the template is not filled in.",
            'Write what "FILL IN" asks for.',
        ),
        "foreign-import": Rule(
            False,
            "The file imports a library other than Alembic and SQLAlchemy.",
            "Do without it: it may be another version, or none, when the revision runs.",
        ),
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One place that breaks a rule.

    Attributes:
        path: the file.
        line: the line, from 1.
        rule: a key of :data:`RULES`.
        message: what is wrong here, in one sentence.
        remedy: what to do.
    """

    path: Path
    line: int
    rule: str
    message: str
    remedy: str

    @property
    def refuses(self) -> bool:
        """Whether it is refused without ``--strict`` too."""
        return RULES[self.rule].refuses


def problem(
    rule: str, path: Path, line: int, message: str, *, rev: str = "REV", parent: str = "None"
) -> Problem:
    """A place that breaks ``rule``, with the rule's remedy filled in."""
    remedy = RULES[rule].remedy.format(FILE=path.name, REV=rev, PARENT=parent)
    return Problem(path, line, rule, message, remedy)


def listed(text: str) -> frozenset[str]:
    """The words of ``text``, for a table of words that is read as one."""
    return frozenset(text.split())


def refused(problems: Iterable[Problem], *, strict: bool) -> bool:
    """Whether any of ``problems`` is refused."""
    return any(strict or found.refuses for found in problems)
