"""The released revisions by what they say: ``released.json``, kept beside the migrations.

Of each revision it holds a digest of every statement, to each dialect, up and down: so an
edit is told by the statement that changed. What Alembic's offline mode cannot show is held
by its code: a revision that does more with its connection than the known operations, and
the tables that it says it deletes rows from.
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
from nextcloud_mcp_server.authoring.lint.rules import Problem, listed, problem
from nextcloud_mcp_server.authoring.lint.version_files import Script

RELEASED_FILE: Final = "released.json"

#: Enough that no two of a few thousand statements are taken for each other.
_DIGITS: Final = 16

#: The most characters of a statement that a message repeats.
_LONGEST: Final = 60

#: What a revision may call of ``op`` without doing what offline mode cannot show.
_SHOWN: Final = listed(
    "add_column alter_column bulk_insert create_check_constraint create_exclusion_constraint "
    "create_foreign_key create_index create_primary_key create_table create_table_comment "
    "create_unique_constraint drop_column drop_constraint drop_index drop_table "
    "drop_table_comment execute f get_context inline_literal rename_table"
)
#: What it may call of the guards, whose statements are all written offline too.
_GUARDED: Final = listed("add_column create_index create_table drop_column drop_index drop_table")
#: What it may ask of the migration context.
_ASKED: Final = frozenset({"dialect", "opts"})

#: Assignments that identify a revision, and mean nothing to a database.
_IDENTITY: Final = frozenset({"revision", "down_revision", "branch_labels", "depends_on"})

#: The one assignment that the program itself reads when it runs a revision.
DELETES: Final = "DELETES_ROWS_FROM"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one revision does, as digests.

    Attributes:
        said: of each statement, by dialect and direction.
        code: of its code, where that does more than say statements; else empty.
    """

    said: Mapping[tuple[Dialect, Direction], tuple[str, ...]]
    code: str

    def document(self) -> dict[str, Any]:
        """The facts that ``released.json`` keeps."""
        return {
            **{d: {way: list(self.said[d, way]) for way in DIRECTIONS} for d in DIALECTS},
            "code": self.code,
        }


def meaning(script: Script, emitted: Emitted) -> Meaning:
    """What ``script`` does now."""
    return Meaning(
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
    """A short name for ``value``, which JSON can write; another one for any other value."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:_DIGITS]


def code_digest(tree: ast.Module) -> str:
    """A digest of the code that no statement shows; empty where every statement does."""
    whole = _hides(tree)
    kept = [
        _shape(node)
        for node in tree.body
        if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)
        and (_assigns(node) == DELETES or (whole and _assigns(node) not in _IDENTITY))
    ]
    return digest(kept) if kept else ""


def _assigns(node: ast.stmt) -> str:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ""


def _hides(tree: ast.Module) -> bool:
    """Whether the code may reach for what only a connection can answer.

    Said the other way round: it is enough that one use of ``op``, of its context or of the
    guards is not one of those that offline mode shows whole.
    """
    uses = shown = 0
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="op"), attr=name):
                shown += name in _SHOWN
            case ast.Attribute(value=ast.Name(id="guards"), attr=name) if name not in _GUARDED:
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
    """``node`` without its place, its docstrings and its types, whatever Python reads it."""
    if isinstance(node, list):
        return [_shape(child) for child in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {}
    for name, value in ast.iter_fields(node):
        kept = value
        if name == "body" and isinstance(value, list) and _has_docstring(node):
            kept = value[1:]
        # A newer Python has more fields, which are empty for what an older one can read.
        if kept not in (None, []) and name not in ("annotation", "returns", "type_comment"):
            fields[name] = _shape(kept)
    return [type(node).__name__, fields]


def _has_docstring(node: ast.AST) -> bool:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return isinstance(node, kinds) and ast.get_docstring(node) is not None


def load(folder: Path) -> dict[str, Meaning]:
    """The released revisions by id; none where there is no file.

    Raises:
        ValueError: the file is not one that :func:`dump` has written.
    """
    path = folder / RELEASED_FILE
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text("utf-8"))
        return {
            revision: Meaning(
                {(d, way): tuple(entry[d][way]) for d in DIALECTS for way in DIRECTIONS},
                str(entry["code"]),
            )
            for revision, entry in document.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def dump(released: Mapping[str, Meaning]) -> str:
    """The text of ``released.json``: a line for each dialect of each revision."""
    entries = []
    for revision in sorted(released, key=int):
        lines = [
            f"  {json.dumps(key)}: {json.dumps(value)}"
            for key, value in released[revision].document().items()
        ]
        entries.append(f" {json.dumps(revision)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def edits(script: Script, before: Meaning, now: Meaning, emitted: Emitted) -> Iterator[Problem]:
    """Where ``script`` does something else than when it was released."""
    for way in DIRECTIONS:
        for dialect in DIALECTS:
            old, new = before.said[dialect, way], now.said[dialect, way]
            if old != new:
                said = emitted.statements[script.path.name, dialect, way]
                line, text = _edit(old, new, said, script.line_of(way))
                what = f"Released, its {way}() {text} to {dialect}."
                yield problem("edited-release", script.path, line, what, rev=script.id)
                break
    if before.code != now.code:
        line = script.line_of(DELETES if DELETES in script.values else "upgrade")
        what = "Released, what its code does beside its statements is not the same."
        yield problem("edited-release", script.path, line, what, rev=script.id)


def _edit(
    old: Sequence[str], new: Sequence[str], said: Sequence[Statement], line: int
) -> tuple[int, str]:
    """Where the first difference is, and what it is, as the middle of a sentence."""
    steps = SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes()
    kind, first, last, at, _ = next(step for step in steps if step[0] != "equal")
    if kind == "delete":
        count = f"{last - first} statements" if last - first > 1 else "a statement"
        return line, f"no longer says {count} that it said"
    words = " ".join(said[at].sql.split())
    excerpt = words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."
    return said[at].line, f"now says {excerpt!r}"


def deletions(folder: Path, gone: Iterable[str]) -> Iterator[Problem]:
    """The problems of released revisions that have no file."""
    path = folder / RELEASED_FILE
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    for revision in gone:
        at = next((n for n, line in enumerate(lines, 1) if f'"{revision}": {{' in line), 1)
        text = f"Revision {revision} is released, and its file is gone."
        yield problem("deleted-release", path, at, text)
