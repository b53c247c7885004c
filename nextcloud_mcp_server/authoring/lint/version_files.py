"""Read the version files with :mod:`ast`, without running them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.authoring.lint.rules import Problem, problem

_NAME: Final = re.compile(r"(?P<moment>[0-9]{8}_[0-9]{4})_(?P<id>[0-9]{3,})_(?P<slug>[a-z0-9_]+)")

#: The value of an assignment that is not a literal.
UNREADABLE: Final = object()

#: Marks the parts of the template to fill in.
PLACEHOLDER: Final = "FILL IN"


@dataclass(frozen=True, slots=True)
class Script:
    """A version file: the time (``YYYYMMDD_HHMM``), id and description in its name, its content.

    ``values`` has the value and the line of each module-level assignment, by name.
    """

    path: Path
    moment: str
    id: str
    slug: str
    tree: ast.Module = field(repr=False)
    values: Mapping[str, tuple[Any, int]] = field(repr=False)
    functions: Mapping[str, ast.FunctionDef] = field(repr=False)

    @property
    def doc(self) -> str:
        """The docstring with its indentation."""
        return ast.get_docstring(self.tree, clean=False) or ""

    @property
    def parent(self) -> Any:
        """The value of ``down_revision``."""
        return self.values.get("down_revision", (UNREADABLE, 1))[0]

    def line_of(self, name: str) -> int:
        """Return the line that assigns or defines ``name``; 1 if none does."""
        if name in self.values:
            return self.values[name][1]
        return self.functions[name].lineno if name in self.functions else 1

    def doc_lines(self) -> Iterator[tuple[int, str]]:
        """Yield each line of the docstring with its number in the file."""
        first = self.tree.body[0].lineno if self.doc else 1
        yield from enumerate(self.doc.splitlines(), first)

    def label(self, name: str) -> list[tuple[int, str]]:
        """Return number and text of each docstring line that begins with ``name:``."""
        return [
            (number, line.partition(":")[2].strip())
            for number, line in self.doc_lines()
            if line.startswith(f"{name}:")
        ]


def read_scripts(folder: Path) -> tuple[list[Script], list[Problem]]:
    """Return the version files in ``folder`` by id and date, and the problems of other files."""
    scripts: list[Script] = []
    problems: list[Problem] = []
    for path in sorted(folder.glob("*.py")):
        try:
            scripts.append(read_script(path))
        except SyntaxError as error:
            text = f"It cannot be read: {error.msg}."
            problems.append(problem("not-python", path, error.lineno or 1, text))
        except (UnicodeDecodeError, ValueError) as error:
            rule = "not-python" if isinstance(error, UnicodeDecodeError) else "file-name"
            problems.append(problem(rule, path, 1, str(error)))
    return sorted(scripts, key=lambda s: (int(s.id), s.moment, s.path.name)), problems


def read_script(path: Path) -> Script:
    """Read a version file.

    Raises:
        ValueError: the name is not a version file's.
        SyntaxError, UnicodeDecodeError: it is not Python.
    """
    name = _NAME.fullmatch(path.stem)
    if not name or path.suffix != ".py":
        raise ValueError(f"The name {path.name} is not YYYYMMDD_HHMM_XXX_description.py.")
    try:
        datetime.strptime(name["moment"], "%Y%m%d_%H%M").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{name['moment']} is not a date and time.") from None
    text = path.read_text("utf-8")
    try:
        tree = ast.parse(text, path.name)
    except ValueError as error:  # a null character
        raise SyntaxError(str(error)) from error
    return Script(
        path=path,
        moment=name["moment"],
        id=name["id"],
        slug=name["slug"],
        tree=tree,
        values=dict(_values(tree)),
        functions={node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)},
    )


def _values(tree: ast.Module) -> Iterator[tuple[str, tuple[Any, int]]]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, (_literal(value), node.lineno)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, (_literal(value), node.lineno)


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return UNREADABLE
