"""What a revision says of itself: the parts of its docstring, for people. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_LOSES: Final = re.compile(
    r"^Downgrade loses:\s*(?P<what>.+?)(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL
)
_CHANGES: Final = re.compile(
    r"^Upgrade changes:\s*(?P<what>.+?)(?:\n\s*\n|\nDowngrade loses:|\Z)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, for people.

    Attributes:
        id: its id.
        parent: the id before it; None for the first.
        title: the first line of its docstring.
        date: the day in its file's name, as YYYY-MM-DD.
        doc: the whole docstring.
        loses: what a downgrade of it loses, in its own words; empty where it says nothing.
        changes: what its upgrade does to rows, in its own words; empty where it says nothing.
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
    """Read the docstring and the file's name of one revision."""
    doc, day = doc.strip(), path.name[:8]
    return Revision(
        id=revision,
        parent=parent,
        title=doc.partition("\n")[0].rstrip("."),
        date=f"{day[:4]}-{day[4:6]}-{day[6:8]}",
        doc=doc,
        loses=_found(_LOSES, doc),
        changes=_found(_CHANGES, doc),
        path=path,
    )


def _found(label: re.Pattern[str], doc: str) -> str:
    """What follows a label, on one line; empty where the label is not there."""
    match = label.search(doc)
    return " ".join(match["what"].split()) if match else ""
