"""The rules of ``db lint``.

The tables of ``docs/reference/lint.md`` are generated from :data:`RULES`. ``{FILE}``, ``{REV}``
and ``{PARENT}`` in a remedy are replaced.
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
        refuses: True for an error; False for a note, which is an error with ``--strict``.
        what: the problem, in one sentence.
        remedy: how to fix it.
    """

    refuses: bool
    what: str
    remedy: str


_RENUMBER: Final = "nextcloud-mcp-server db migrate --renumber {FILE}"

RULES: Final = MappingProxyType(
    {
        "file-name": Rule(
            True,
            "The name of a file in versions/ is not YYYYMMDD_HHMM_XXX_description.py, or its date "
            "is before the date of the revision below it.",
            "Rename it, or move it out of versions/: Alembic runs every .py file there.",
        ),
        "not-python": Rule(
            True, "The file cannot be read as Python.", "Fix the syntax error in this line."
        ),
        "revision-id": Rule(
            True,
            "The revision differs from the id in the file name, or the id is not the next number.",
            f"Let the tool write the name and the id: {_RENUMBER}",
        ),
        "duplicated-id": Rule(
            True,
            "Two files have the same id.",
            f"Give the next id to the file that only you have run: {_RENUMBER}",
        ),
        "broken-chain": Rule(
            True,
            "The down_revision is missing or is not the previous id, or branch_labels or "
            "depends_on is not None.",
            "The history is linear: set down_revision to {PARENT}, the other two to None.",
        ),
        "second-head": Rule(
            True,
            "Two revisions have the same down_revision, so there are two heads.",
            f"Move this one to the end of the history: {_RENUMBER}",
        ),
        "missing-function": Rule(
            True,
            "The file has no upgrade() or no downgrade().",
            "Add it; the downgrade reverses the upgrade.",
        ),
        "empty-downgrade": Rule(
            True,
            "The downgrade does nothing, and its docstring gives no reason.",
            "Reverse the upgrade, or give the reason in the docstring of downgrade().",
        ),
        "loses-missing": Rule(
            True,
            'The docstring has no line "Downgrade loses:", or several, or it is not filled in.',
            'Name what cannot be restored, or write "Downgrade loses: nothing."; db downgrade '
            "shows this line before it asks.",
        ),
        "application-import": Rule(
            True,
            "The file imports code of the application, which may have changed when it runs.",
            "Copy what it needs into the file. Only the guards may be imported, by from "
            "nextcloud_mcp_server.migrations import guards.",
        ),
        "transaction-control": Rule(
            True,
            "A statement begins or ends a transaction, or sets a pragma.",
            "Remove it: all revisions run in one transaction, which the program commits.",
        ),
        "undeclared-delete": Rule(
            True,
            "A statement deletes rows of a table that is not in DELETES_ROWS_FROM, so the program "
            "rolls the upgrade back.",
            'If the rows may be lost, write DELETES_ROWS_FROM = ("table",) below depends_on.',
        ),
        "fails": Rule(
            True,
            "The upgrade or the downgrade fails with --sql or in an empty database.",
            "Fix it; if it needs a connection, check op.get_context().as_sql first.",
        ),
        "edited-release": Rule(
            True,
            "A released revision does something else than when it was released; only comments and "
            "formatting may change.",
            "Revert the edit, and write a new revision. Show its SQL with: "
            "nextcloud-mcp-server db show {REV}",
        ),
        "deleted-release": Rule(
            True,
            "The file of a released revision is missing, so databases at it cannot be opened.",
            "Restore the file: git checkout HEAD -- FILE; if the deletion is committed, "
            "git log --diff-filter=D --summary shows FILE and the commit.",
        ),
        "released-file": Rule(
            True, "released.json cannot be read.", "Restore it from the repository's history."
        ),
        "stale-structure": Rule(
            True,
            "structure.json differs from the result of the migrations.",
            "Generate it again: nextcloud-mcp-server db lint --fix",
        ),
        "dialect-only": Rule(
            False,
            "A statement is sent to SQLite that only PostgreSQL supports, or the reverse.",
            "Use the guards or Alembic's operations, or branch on op.get_context().dialect.name.",
        ),
        "drop-without-recreation": Rule(
            False,
            "An upgrade drops a table or changes a column without a copy of the rows.",
            "Use guards.recreate_table, or copy the rows into a new table and rename it; if data "
            'may be lost, say so in a line "Upgrade changes:" of the docstring.',
        ),
        "not-idempotent": Rule(
            False,
            "A statement fails, or changes data again, if it runs a second time.",
            "Use the guards, or IF NOT EXISTS, IF EXISTS, ON CONFLICT, or a WHERE that excludes "
            "changed rows.",
        ),
        "undeclared-change": Rule(
            False,
            'An upgrade changes rows, and its docstring has no line "Upgrade changes:".',
            "Write which rows change, and how; db history shows this line.",
        ),
        "description": Rule(
            False,
            "The file has no docstring.",
            'Say what the revision does, beginning with a verb: "Add a table", "Drop a column".',
        ),
        "unfinished": Rule(
            False, "A part of the template is not filled in.", 'Replace the text after "FILL IN".'
        ),
        "foreign-import": Rule(
            False,
            "The file imports a library other than Alembic and SQLAlchemy.",
            "Remove the import: the library may be missing or changed when the revision runs.",
        ),
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A place that breaks a rule.

    Attributes:
        path: the file.
        line: the line, from 1.
        rule: a key of :data:`RULES`.
        message: what is wrong here, in one sentence.
        remedy: how to fix it.
    """

    path: Path
    line: int
    rule: str
    message: str
    remedy: str

    @property
    def refuses(self) -> bool:
        """Whether it is an error without ``--strict``."""
        return RULES[self.rule].refuses


def problem(
    rule: str, path: Path, line: int, message: str, *, rev: str = "REV", parent: str = "None"
) -> Problem:
    """Create a problem with the remedy of its rule filled in."""
    remedy = RULES[rule].remedy.format(FILE=path.name, REV=rev, PARENT=parent)
    return Problem(path, line, rule, message, remedy)


def refused(problems: Iterable[Problem], *, strict: bool) -> bool:
    """Return whether any of ``problems`` is an error."""
    return any(strict or found.refuses for found in problems)
