"""Check the docstrings, the imports and the functions of a revision. Pure."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from typing import Final

from nextcloud_mcp_server.authoring.lint.rules import Problem, problem
from nextcloud_mcp_server.authoring.lint.version_files import PLACEHOLDER, Script

LOSES: Final = "Downgrade loses"
CHANGES: Final = "Upgrade changes"

#: Top-level modules of a checkout that a revision must not import.
_APPLICATION: Final = frozenset({"nextcloud_mcp_server", "tests", "guards", "env"})
_ALLOWED: Final = sys.stdlib_module_names | {"alembic", "sqlalchemy"}


def text_problems(script: Script) -> Iterator[Problem]:
    """Yield the problems of the docstrings, imports and functions of ``script``."""
    yield from _loses(script)
    if not script.doc.strip():
        yield problem("description", script.path, 1, "There is no docstring.")
    yield from _placeholders(script)
    yield from _imports(script)
    for name in ("upgrade", "downgrade"):
        if name not in script.functions:
            yield problem("missing-function", script.path, 1, f"There is no {name}().")


def _loses(script: Script) -> Iterator[Problem]:
    lines = script.label(LOSES)
    if not lines:
        text = f'The docstring has no line that begins with "{LOSES}:".'
        yield problem("loses-missing", script.path, 1, text)
    for line, _ in lines[1:]:
        text = f'A second line begins with "{LOSES}:".'
        yield problem("loses-missing", script.path, line, text)
    for line, what in lines[:1]:
        if not what or PLACEHOLDER in what:
            text = f'The line "{LOSES}:" is not filled in.'
            yield problem("loses-missing", script.path, line, text)


def _placeholders(script: Script) -> Iterator[Problem]:
    for line, text in script.doc_lines():
        if PLACEHOLDER in text and not text.startswith(f"{LOSES}:"):
            yield problem("unfinished", script.path, line, f"It still contains {PLACEHOLDER}.")
    for function in script.functions.values():
        if PLACEHOLDER in (ast.get_docstring(function) or ""):
            text = f"The docstring of {function.name}() still contains {PLACEHOLDER}."
            yield problem("unfinished", script.path, function.body[0].lineno, text)


def has_docstring(script: Script, function: str) -> bool:
    """Return whether ``function`` has a docstring other than the template's."""
    node = script.functions.get(function)
    doc = ast.get_docstring(node) if node else None
    return bool(doc) and PLACEHOLDER not in str(doc)


def _imports(script: Script) -> Iterator[Problem]:
    for name, line in _imported(script.tree):
        top = name.partition(".")[0]
        if not top or top in _APPLICATION:
            text = f"It imports {name or 'from its own folder'}."
            yield problem("application-import", script.path, line, text)
        elif top not in _ALLOWED:
            yield problem("foreign-import", script.path, line, f"It imports {name}.")


def _imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield each imported module and its line, except the guards; a relative one has no name."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(
                module="nextcloud_mcp_server.migrations",
                names=[ast.alias(name="guards", asname=None)],
                level=0,
            ):
                pass  # they stay as they are, for migrations that import them
            case ast.Import(names=aliases):
                yield from ((alias.name, node.lineno) for alias in aliases)
            case ast.ImportFrom(module=module, level=level):
                yield ("" if level else module or "", node.lineno)
            case ast.Call(
                func=ast.Name(id="__import__")
                | ast.Name(id="import_module")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield (name, node.lineno)
