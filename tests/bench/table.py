"""The figures as a table, and the marked block of a document that contains it."""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.bench.harness import Row, readable

HEADINGS: Final = ("what", "baseline", "baseline takes", "ours", "ratio", "to reach", "holds")

BEGIN: Final = "<!-- figures: written by `uvx nox -s bench -- --write` -->"
END: Final = "<!-- end of figures -->"


def cells(row: Row) -> tuple[str, ...]:
    """Return one figure as the cells of a table."""
    base = "" if row.base is None else readable(row.base)
    ours = row.found if row.ours is None else readable(row.ours)
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x ± {row.spread or 0.0:.2f}"
    holds = {True: "yes", False: "NO", None: ""}[row.holds]
    return (row.what, row.baseline, base, ours, ratio, row.reach, holds)


def plain(rows: Sequence[Row]) -> str:
    """Return the table for a terminal, one line for each figure."""
    table = [HEADINGS, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table)
    return "\n".join(line.rstrip() for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for a document, with the date and the machine."""
    table = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in table), "", where()])


def where() -> str:
    """Return the date and the machine of the measurement."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return (
        f"Measured on {day} with Python {platform.python_version()} and SQLite "
        f"{sqlite3.sqlite_version}, on {cores()} cores shared with other work."
    )


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write(document: Path, rows: Sequence[Row]) -> None:
    """Replace the text between the two marks of ``document``.

    Raises:
        ValueError: if it has no such marks.
    """
    text = document.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document} has no place for the figures")
    document.write_text(f"{before}{BEGIN}\n\n{markdown(rows)}\n\n{END}{after}", "utf-8")


def missed(rows: Sequence[Row]) -> list[str]:
    """Return a line for each exceeded limit."""
    return [
        f"missed: {row.what}: {row.found or f'{row.ratio:.2f}x, {readable(row.ours or 0.0)}'}"
        f" where {row.reach} was to be reached"
        for row in rows
        if row.holds is False
    ]
