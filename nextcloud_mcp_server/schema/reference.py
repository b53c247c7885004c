"""A foreign key in use: rows that reference rows of another table."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """A foreign key with rows that reference another table.

    Attributes:
        table: the table that has it.
        columns: its columns.
        referenced: the other table.
        rows: the number of rows that reference a row of it.
    """

    table: str
    columns: tuple[str, ...]
    referenced: str
    rows: int
