"""The description of a revision: the parts of its docstring."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: A label, and the text up to the next empty line or label.
_LABELLED: Final = r"(?ms)^{}:\s*(.+?)(?:\n\s*\n|\nDowngrade loses:|\Z)"


@dataclass(frozen=True, slots=True)
class Revision:
    """The description of one revision.

    Attributes:
        id: its id.
        parent: the id before it; None for the first.
        title: the first line of its docstring.
        date: the day in the name of its file, as YYYY-MM-DD.
        doc: the complete docstring.
        loses: the text after "Downgrade loses:"; empty if there is none.
        changes: the text after "Upgrade changes:"; empty if there is none.
        path: its file.
    """

    id: str
    parent: str | None
    title: str
    date: str
    doc: str
    loses: str
    changes: str
    path: Path


def describe(doc: str, revision: str, parent: str | None, path: Path) -> Revision:
    """Parse the docstring and the file name of one revision."""
    doc, day = doc.strip(), path.name[:8]
    return Revision(
        id=revision,
        parent=parent,
        title=doc.partition("\n")[0].rstrip("."),
        date=f"{day[:4]}-{day[4:6]}-{day[6:8]}",
        doc=doc,
        loses=_labelled("Downgrade loses", doc),
        changes=_labelled("Upgrade changes", doc),
        path=path,
    )


def read_docstring(path: Path) -> str:
    """Return the docstring in the source text of a revision: ``python -OO`` drops ``__doc__``."""
    return ast.get_docstring(ast.parse(path.read_bytes(), str(path)), clean=False) or ""


def _labelled(label: str, doc: str) -> str:
    """Return the text after a label, on one line; empty if there is no such label."""
    match = re.search(_LABELLED.format(label), doc)
    return " ".join(match[1].split()) if match else ""
