"""Detect edits of released revisions, with the digests in ``released.json``.

For each revision the file has a digest of every statement, for each dialect, up and down, so
that a report can name the changed statement. Code that needs a connection emits no statements
offline, so it has a digest of its own, and so has ``DELETES_ROWS_FROM``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.authoring.lint.emitted_sql import (
    DIRECTIONS,
    Direction,
    Emitted,
    Statement,
)
from nextcloud_mcp_server.authoring.lint.lexer import DIALECTS, Dialect, tokens
from nextcloud_mcp_server.authoring.lint.rules import Problem, problem
from nextcloud_mcp_server.authoring.lint.version_files import Script

RELEASED_FILE: Final = "released.json"

#: Enough to tell a few thousand statements apart.
_DIGITS: Final = 16

#: The operations of ``op`` that offline mode shows completely.
_SHOWN: Final = (
    "add_column alter_column bulk_insert create_check_constraint create_exclusion_constraint "
    "create_foreign_key create_index create_primary_key create_table create_table_comment "
    "create_unique_constraint drop_column drop_constraint drop_index drop_table "
    "drop_table_comment execute f get_context inline_literal rename_table"
)
#: The guards that offline mode shows completely.
_GUARDED: Final = "add_column create_index create_table drop_column drop_index drop_table"
#: The attributes of the migration context that reveal nothing of the database.
_ASKED: Final = frozenset({"dialect", "opts"})

#: Assignments that identify a revision.
_IDENTITY: Final = frozenset({"revision", "down_revision", "branch_labels", "depends_on"})

#: The assignment that the program reads when it runs a revision.
DELETES: Final = "DELETES_ROWS_FROM"


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests of each statement of a revision, and of its code that emits none, if any."""

    statements: Mapping[tuple[Dialect, Direction], tuple[str, ...]]
    code: str

    def document(self) -> dict[str, Any]:
        """Return the entry of ``released.json``."""
        return {
            **{d: {way: list(self.statements[d, way]) for way in DIRECTIONS} for d in DIALECTS},
            "code": self.code,
        }


def digests(script: Script, emitted: Emitted) -> Digests:
    """Compute the digests of ``script``."""
    return Digests(
        {
            (dialect, way): tuple(
                digest(tokens(one.sql, dialect))
                for one in emitted.statements[script.path.name, dialect, way]
            )
            for dialect in DIALECTS
            for way in DIRECTIONS
        },
        code_digest(script.tree),
    )


def digest(value: Any) -> str:
    """Return a short digest of a JSON value."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:_DIGITS]


def code_digest(tree: ast.Module) -> str:
    """Return a digest of the code that emits no statements; empty if there is none."""
    hidden = _needs_connection(tree)
    kept = [
        _shape(node)
        for node in tree.body
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)
        and (_assigns(node) == DELETES or (hidden and _assigns(node) not in _IDENTITY))
    ]
    return digest(kept) if kept else ""


def _assigns(node: ast.stmt) -> str:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ""


def _needs_connection(tree: ast.Module) -> bool:
    """Return whether any use of ``op``, its context or the guards is not shown offline."""
    uses = shown = 0
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="op"), attr=name):
                shown += name in _SHOWN.split()
            case ast.Attribute(value=ast.Name(id="guards"), attr=name):
                if name not in _GUARDED.split():
                    return True
            case ast.Attribute(value=ast.Call(func=ast.Attribute(attr="get_context")), attr=name):
                shown += name in _ASKED
            case ast.ImportFrom(module=module, names=names) if _is_alembic(module):
                if [(alias.name, alias.asname) for alias in names] != [("op", None)]:
                    return True
            case ast.Import(names=names) if any(_is_alembic(alias.name) for alias in names):
                return True
            case ast.Name(id="op") | ast.Call(func=ast.Attribute(attr="get_context")):
                uses += 1
    return shown != uses


def _is_alembic(module: str | None) -> bool:
    return (module or "").partition(".")[0] == "alembic"


def _shape(node: Any) -> Any:
    """Return ``node`` without positions, docstrings and types, equal on each Python version."""
    if isinstance(node, list):
        return [_shape(child) for child in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {}
    for name, value in ast.iter_fields(node):
        kept = value
        if name == "body" and isinstance(value, list) and _has_docstring(node):
            kept = value[1:]
        # A newer Python has more fields, which are empty for older syntax.
        if kept not in (None, []) and name not in ("annotation", "returns", "type_comment"):
            fields[name] = _shape(kept)
    return [type(node).__name__, fields]


def _has_docstring(node: ast.AST) -> bool:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return isinstance(node, kinds) and ast.get_docstring(node) is not None


def load(folder: Path) -> dict[str, Digests]:
    """Read the released revisions, by id; empty if there is no file.

    Raises:
        ValueError: the file was not written by :func:`dump`.
    """
    path = folder / RELEASED_FILE
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text("utf-8"))
        return {
            revision: Digests(
                {(d, way): tuple(entry[d][way]) for d in DIALECTS for way in DIRECTIONS},
                str(entry["code"]),
            )
            for revision, entry in document.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def dump(released: Mapping[str, Digests]) -> str:
    """Return the text of ``released.json``, one line for each dialect of a revision."""
    entries = []
    for revision in sorted(released, key=int):
        lines = [
            f"  {json.dumps(key)}: {json.dumps(value)}"
            for key, value in released[revision].document().items()
        ]
        entries.append(f" {json.dumps(revision)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def edits(script: Script, before: Digests, now: Digests, emitted: Emitted) -> Iterator[Problem]:
    """Yield the edits of a released revision."""
    for way in DIRECTIONS:
        for dialect in DIALECTS:
            old, new = before.statements[dialect, way], now.statements[dialect, way]
            if old != new:
                sent = emitted.statements[script.path.name, dialect, way]
                line, text = _edit(old, new, sent, script.line_of(way))
                what = f"It is released, and its {way}() {text} for {dialect}."
                yield problem("edited-release", script.path, line, what, rev=script.id)
                break
    if before.code != now.code:
        line = script.line_of(DELETES if DELETES in script.values else "upgrade")
        what = "It is released, and its code that needs a connection was edited."
        yield problem("edited-release", script.path, line, what, rev=script.id)


def _edit(
    old: Sequence[str], new: Sequence[str], sent: Sequence[Statement], line: int
) -> tuple[int, str]:
    """Return the line of the first difference, and its description."""
    steps = SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
    kind, first, last, at, _ = next(step for step in steps if step[0] != "equal")
    if kind == "delete":
        count = f"{last - first} statements" if last - first > 1 else "a statement"
        return line, f"no longer sends {count}"
    return sent[at].line, f"now sends {sent[at].excerpt}"


def deletions(folder: Path, gone: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for each released revision in ``gone``, which has no file."""
    path = folder / RELEASED_FILE
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    for revision in gone:
        at = next((n for n, line in enumerate(lines, 1) if f'"{revision}": {{' in line), 1)
        text = f"Revision {revision} is released, and its file is missing."
        yield problem("deleted-release", path, at, text)
