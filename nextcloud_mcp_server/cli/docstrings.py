"""The help of a command from its source text: ``python -OO`` drops docstrings."""

from __future__ import annotations

import ast
import inspect
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click


def source_help(command: click.Command) -> str:
    """Return the docstring of the function of ``command``; empty if it has no source text."""
    function = inspect.unwrap(command.callback) if command.callback else None
    spec = find_spec(function.__module__) if function else None
    # Not every loader has the source text.
    read = getattr(spec and spec.loader, "get_source", None)
    source = read(spec.name) if read and spec else None
    for node in ast.parse(source or "").body:
        if function and isinstance(node, ast.FunctionDef) and node.name == function.__name__:
            return ast.get_docstring(node) or ""
    return ""
