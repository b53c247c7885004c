"""Read the catalog of an open database: its structure, its version rows, its row counts.

Every function works through a function that executes one SQL text, so that it serves plain
sqlite3 connections and those inside a migration's transaction alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Column, Structure, Table

#: Executes one SQL text and answers its rows.
Execute = Callable[[str], Iterable[Sequence[Any]]]

#: How Alembic makes its table.
_VERSIONS: Final = (
    f"CREATE TABLE {VERSION_TABLE} (\n\tversion_num VARCHAR(32) NOT NULL, \n\t"
    f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)\n)"
)

#: Tables by their names and by the statements that make them.
Known = Mapping[tuple[str, str], Table]

_NONE: Final[Known] = MappingProxyType({})

#: What SQLite and Alembic keep for themselves in every database of ours.
_OWN: Final[Known] = MappingProxyType(
    {
        ("sqlite_sequence", "CREATE TABLE sqlite_sequence(name,seq)"): Table(
            {"name": Column(), "seq": Column()}, "CREATE TABLE sqlite_sequence(name,seq)"
        ),
        (VERSION_TABLE, _VERSIONS): Table({"version_num": Column(required=True, key=1)}, _VERSIONS),
    }
)

_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}

#: Tables that one statement counts; SQLite takes up to 500.
_AT_ONCE: Final = 100

# The indexes that SQLite makes for itself have no statement. The order is that of the rows,
# and names are folded here: to have SQLite sort and fold them takes as long as to read them.
_NAMES: Final = """
SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type <> 'index' OR sql <> ''
"""

# The CASE keeps the pragma away from views, and from virtual tables: one that has lost its
# table, or its module, is an error.
_COLUMNS: Final = """
SELECT lower(m.name), lower(c.name), c.type, c."notnull", c.dflt_value, c.pk, c.hidden
FROM sqlite_master AS m
JOIN pragma_table_xinfo(
    CASE WHEN m.type = 'table' AND m.sql NOT LIKE 'CREATE VIRTUAL %' THEN m.name END
) AS c
WHERE m.type = 'table' AND lower(m.name) IN ({names})
ORDER BY m.rowid, c.cid
"""


def observe(execute: Execute, known: Known = _NONE) -> Snapshot:
    """Read what a look sees through ``execute``, inside one read transaction or another's."""
    structure = read_structure(execute, known)
    versions: tuple[str | None, ...] | None = None
    version_column = True
    if VERSION_TABLE in structure.tables:
        version_column = "version_num" in structure.tables[VERSION_TABLE].columns
        if version_column:
            rows = execute(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a constant
            versions = tuple(row[0] for row in rows)
    (journal_mode,) = next(iter(execute("PRAGMA journal_mode")))
    return Snapshot(structure, versions, version_column, str(journal_mode).lower())


def read_structure(execute: Execute, known: Known = _NONE) -> Structure:
    """The names of all tables, columns and indexes, inside a transaction.

    Args:
        execute: on the database.
        known: tables whose columns need not be asked for: the same statement makes the same.
    """
    tables: dict[str, Table] = {}
    strange: dict[str, str] = {}
    indexes: dict[str, str] = {}
    owners: dict[str, str] = {}
    others = set()
    for kind, written, table, text in execute(_NAMES):
        name = folded(written)
        if kind == "table":
            named = name, text
            tables[name] = known.get(named) or _OWN.get(named) or Table(sql=text or "")
            if not tables[name].columns:
                strange[name] = text or ""
        elif kind == "index":
            indexes[name], owners[name] = text, folded(table)
        elif kind == "view":
            others.add(name)
    columns = _columns(execute, strange) if strange else {}
    tables |= {name: Table(columns[name], text) for name, text in strange.items()}
    return Structure(tables, indexes, owners, frozenset(others))


def _columns(execute: Execute, tables: Iterable[str]) -> dict[str, dict[str, Column]]:
    """The columns of ``tables``, in one query."""
    found: dict[str, dict[str, Column]] = {name: {} for name in tables}
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in found)
    for name, *column in execute(_COLUMNS.format(names=names)):
        _add_column(found[name], *column)
    return found


def _add_column(  # noqa: PLR0917 - the columns of pragma_table_xinfo
    columns: dict[str, Column],
    name: str | None,
    kind: str,
    not_null: int,
    default: str | None,
    key: int,
    hidden: int,
) -> None:
    if name is None or hidden:
        return
    words = [
        kind,
        *(["NOT NULL"] if not_null else []),
        *([f"DEFAULT {default}"] if default else []),
    ]
    required = bool(not_null) and default is None
    columns[name] = Column(required, key, "" if required else " ".join(words))


def counts(execute: Execute, structure: Structure) -> dict[str, int]:
    """The number of rows of every table that is not bookkeeping.

    Virtual tables are left out: their modules may not be here, and their rows lie in others.
    """
    names = [
        name
        for name in sorted(structure.own_tables)
        if not structure.tables[name].sql.startswith("CREATE VIRTUAL ")
    ]
    found: list[int] = []
    for begin in range(0, len(names), _AT_ONCE):
        some = names[begin : begin + _AT_ONCE]
        found += (row[0] for row in execute(" UNION ALL ".join(map(_counting, some))))
    return dict(zip(names, map(int, found), strict=True))


def count(execute: Execute, table: str) -> int:
    """The number of rows of one table."""
    [(number,)] = execute(_counting(table))
    return int(number)


def _counting(table: str) -> str:
    return f"SELECT count(*) FROM {quoted(table)}"  # noqa: S608 - quoted


def folded(name: object) -> str:
    """A name as SQLite compares it: only the letters of ASCII have no case."""
    text = str(name)
    return text.lower() if text.isascii() else text.translate(_LOWER)


def quoted(name: str) -> str:
    """``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
