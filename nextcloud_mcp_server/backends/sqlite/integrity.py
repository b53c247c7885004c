"""Check the pages of a database with SQLite's own check.

Only what SQLite calls damage is damage. A table whose collation or function belongs to
another program cannot be checked here: it is named, and every other table is checked.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from nextcloud_mcp_server.backends.sqlite.catalog import Execute, folded
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import driver_error, named, needs_its_program
from nextcloud_mcp_server.schema.reference import Reference
from nextcloud_mcp_server.schema.structure import quoted

#: Rows of SQLite's report; with fewer it stops earlier.
_MOST: Final = 20

#: A row about values that the definition of a table forbids, which says nothing about pages.
_CONSTRAINT: Final = re.compile(
    r"CHECK constraint failed in |NULL value in |NUMERIC value in |TEXT value in "
    r"|non-(?:INT|INTEGER|REAL|TEXT|BLOB|ANY) value in "
)

_DAMAGE: Final = frozenset({"corrupt", "not-a-database"})


class Checked(NamedTuple):
    """The result of a check.

    Attributes:
        damage: the damage that SQLite finds.
        unchecked: the tables that SQLite cannot check here, each with the reason.
    """

    damage: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def check_file(path: Path, pragma: str = "quick_check") -> Checked:
    """Run ``pragma`` (``quick_check`` or ``integrity_check``) on ``path``.

    Raises:
        TokenStorageError: the file cannot be read, for a reason other than damage.
    """
    try:
        with closing(connect_read_only(path)) as connection:
            return check(connection, pragma)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        known = named(error, path)
        if known is not None and known.code not in _DAMAGE:
            raise known from error
        return Checked((_one_line(error),))


def check(connection: sqlite3.Connection, pragma: str = "quick_check") -> Checked:
    """Run ``pragma`` on an open connection.

    Raises:
        sqlite3.Error: SQLite cannot read the file at all.
    """
    try:
        return Checked(_damage(connection, f"{pragma}({_MOST})"))
    except sqlite3.OperationalError as error:
        if not needs_its_program(error):
            raise
    damage: list[str] = []
    unchecked: list[str] = []
    # Its own rows are not among its tables.
    for table in ("sqlite_master", *_tables(connection.execute)):
        try:
            damage += _damage(connection, f"{pragma}({quoted(table)})")
        except sqlite3.OperationalError as error:
            if not needs_its_program(error):
                raise
            unchecked.append(f"{table} ({_one_line(error)})")
    return Checked(tuple(dict.fromkeys(damage)), tuple(unchecked))


def check_pages(path: Path) -> str:
    """Return the damage that ``quick_check`` finds in ``path``; empty if there is none."""
    return "; ".join(check_file(path).damage[:3])


def broken_references(execute: Execute) -> set[tuple[Any, ...]]:
    """Run ``foreign_key_check``; a table that cannot be checked gives SQLite's message.

    Raises:
        sqlite3.Error, sqlalchemy.exc.DBAPIError: the file cannot be read.
    """
    try:
        return set(map(tuple, execute("PRAGMA foreign_key_check")))
    except Exception as error:
        if not needs_its_program(error):
            raise
    broken: set[tuple[Any, ...]] = set()
    for table in _tables(execute):
        try:
            broken.update(map(tuple, execute(f"PRAGMA foreign_key_check({quoted(table)})")))
        except Exception as error:
            if not needs_its_program(error):
                raise
            broken.add((_one_line(driver_error(error)),))
    return broken


def references(
    execute: Execute, tables: Iterable[str], dropped: Collection[str]
) -> list[Reference]:
    """Return the foreign keys of ``tables`` with rows that reference one of ``dropped``.

    Rows that reference a missing row already are not counted.
    """
    broken = Counter(
        (folded(row[0]), folded(row[2]), row[3])
        for row in broken_references(execute)
        if len(row) > 1
    )
    found = []
    for table in tables:
        keys: dict[tuple[str, int], list[str]] = {}
        for number, _, referenced, column, *_ in execute(
            f"PRAGMA foreign_key_list({quoted(table)})"
        ):
            keys.setdefault((folded(referenced), number), []).append(column)
        for (referenced, number), columns in sorted(keys.items()):
            if referenced not in dropped:
                continue
            filled = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in columns)
            query = f"SELECT count(*) FROM {quoted(table)} NOT INDEXED WHERE {filled}"  # noqa: S608
            ((rows,),) = execute(query)
            rows -= broken[table, referenced, number]
            if rows > 0:
                found.append(Reference(table, tuple(columns), referenced, rows))
    return found


def _tables(execute: Execute) -> Iterator[str]:
    for (name,) in list(execute("SELECT name FROM sqlite_master WHERE type = 'table'")):
        yield name


def _damage(connection: sqlite3.Connection, pragma: str) -> tuple[str, ...]:
    lines = [" ".join(str(row[0]).split()) for row in connection.execute(f"PRAGMA {pragma}")]
    return tuple(
        line.removeprefix("*** in database main *** ")
        for line in lines
        if line != "ok" and not _CONSTRAINT.match(line)
    )


def _one_line(error: BaseException) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its schema is not readable text"
    return " ".join(str(error).encode("ascii", "replace").decode().split())
