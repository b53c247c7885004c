"""The rules of ``db lint``.

The tables of ``docs/reference/lint.md`` are generated from :data:`RULES`. ``{FILE}``, ``{REV}``
and ``{PARENT}`` in a remedy are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: an error, or a note, which is an error with ``--strict``."""

    refuses: bool
    what: str
    remedy: str


_error, _note = partial(Rule, True), partial(Rule, False)
_RENUMBER: Final = "nextcloud-mcp-server db migrate --renumber {FILE}"

RULES: Final = MappingProxyType(
    {
        "file-name": _error(
            "The name of a file in versions/ is not YYYYMMDD_HHMM_XXX_description.py, or its date "
            "is before the date of the revision below it.",
            "Rename it, or move it out of versions/: Alembic runs every .py file there.",
        ),
        "not-python": _error(
            "The file cannot be read as Python.", "Fix the syntax error in this line."
        ),
        "revision-id": _error(
            "The revision differs from the id in the file name, or the id is not the next number.",
            f"Let the tool write the name and the id: {_RENUMBER}",
        ),
        "duplicated-id": _error(
            "Two files have the same id.",
            f"Give the next id to the file that only you have run: {_RENUMBER}",
        ),
        "broken-chain": _error(
            "The down_revision is missing or is not the previous id, or branch_labels or "
            "depends_on is not None.",
            "The history is linear: set down_revision to {PARENT}, the other two to None.",
        ),
        "second-head": _error(
            "Two revisions have the same down_revision, so there are two heads.",
            f"Move this one to the end of the history: {_RENUMBER}",
        ),
        "missing-function": _error(
            "The file has no upgrade() or no downgrade().",
            "Add it; the downgrade reverses the upgrade.",
        ),
        "empty-downgrade": _error(
            "The downgrade does nothing, and its docstring gives no reason.",
            "Reverse the upgrade, or give the reason in the docstring of downgrade().",
        ),
        "loses-missing": _error(
            'The docstring has no line "Downgrade loses:", or several, or it is not filled in.',
            'Name what cannot be restored, or write "Downgrade loses: nothing."; db downgrade '
            "shows this line before it asks.",
        ),
        "application-import": _error(
            "The file imports code of the application, which may have changed when it runs.",
            "Copy what it needs into the file. Only the guards may be imported, by from "
            "nextcloud_mcp_server.migrations import guards.",
        ),
        "transaction-control": _error(
            "A statement begins or ends a transaction, or sets a pragma.",
            "Remove it: all revisions run in one transaction, which the program commits.",
        ),
        "undeclared-delete": _error(
            "A statement deletes rows of a table that is not in DELETES_ROWS_FROM, so the program "
            "rolls the upgrade back.",
            'If the rows may be lost, write DELETES_ROWS_FROM = ("table",) below depends_on.',
        ),
        "fails": _error(
            "The upgrade or the downgrade fails with --sql or in an empty database.",
            "Fix it; if it needs a connection, check op.get_context().as_sql first.",
        ),
        "edited-release": _error(
            "A released revision does something else than when it was released; only comments and "
            "formatting may change.",
            "Revert the edit, and write a new revision. Show its SQL with: "
            "nextcloud-mcp-server db show {REV}",
        ),
        "deleted-release": _error(
            "The file of a released revision is missing, so databases at it cannot be opened.",
            "Restore the file: git checkout HEAD -- FILE; if the deletion is committed, "
            "git log --diff-filter=D --summary shows FILE and the commit.",
        ),
        "released-file": _error(
            "released.json cannot be read.", "Restore it from the repository's history."
        ),
        "stale-structure": _error(
            "structure.json differs from the result of the migrations.",
            "Generate it again: nextcloud-mcp-server db lint --fix",
        ),
        "dialect-only": _note(
            "A statement is sent to SQLite that only PostgreSQL supports, or the reverse.",
            "Use the guards or Alembic's operations, or branch on op.get_context().dialect.name.",
        ),
        "drop-without-recreation": _note(
            "An upgrade drops a table or changes a column without a copy of the rows.",
            "Use guards.recreate_table, or copy the rows into a new table and rename it; if data "
            'may be lost, say so in a line "Upgrade changes:" of the docstring.',
        ),
        "not-idempotent": _note(
            "A statement fails, or changes data again, if it runs a second time.",
            "Use the guards, or IF NOT EXISTS, IF EXISTS, ON CONFLICT, or a WHERE that excludes "
            "changed rows.",
        ),
        "undeclared-change": _note(
            'An upgrade changes rows, and its docstring has no line "Upgrade changes:".',
            "Write which rows change, and how; db history shows this line.",
        ),
        "description": _note(
            "The file has no docstring.",
            'Say what the revision does, beginning with a verb: "Add a table", "Drop a column".',
        ),
        "unfinished": _note(
            "A part of the template is not filled in.", 'Replace the text after "FILL IN".'
        ),
        "foreign-import": _note(
            "The file imports a library other than Alembic and SQLAlchemy.",
            "Remove the import: the library may be missing or changed when the revision runs.",
        ),
    }
)


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """A line (from 1) that breaks a rule, a key of :data:`RULES`; the message is one sentence."""

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
