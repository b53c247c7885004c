"""Read the catalog of an open database: its structure, its version rows, its row counts.

Each function is given a function that executes one SQL text, so that it works on plain
sqlite3 connections and inside the transaction of a migration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from nextcloud_mcp_server.backends.base import Snapshot
from nextcloud_mcp_server.backends.sqlite.errors import needs_its_program
from nextcloud_mcp_server.schema.structure import VERSION_TABLE, Column, Structure, Table, quoted

#: Executes one SQL text and returns its rows.
Execute = Callable[[str], Iterable[Sequence[Any]]]

#: The statement with which Alembic creates its table.
_VERSIONS: Final = (
    f"CREATE TABLE {VERSION_TABLE} (\n\tversion_num VARCHAR(32) NOT NULL, \n\t"
    f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)\n)"
)

#: Tables by name and CREATE statement.
Known = Mapping[tuple[str, str], Table]

_NONE: Final[Known] = MappingProxyType({})

#: The bookkeeping tables of SQLite and Alembic.
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

# SQLite's own indexes have no statement. Sorting and folding the names in SQLite would take as
# long as reading them.
_NAMES: Final = """
SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type <> 'index' OR sql <> ''
"""

# The CASE skips views and virtual tables: one without its table or module is an error.
_COLUMNS: Final = """
SELECT lower(m.name), lower(c.name), c.type, c."notnull", c.dflt_value, c.pk, c.hidden
FROM sqlite_master AS m
JOIN pragma_table_xinfo(
    CASE WHEN m.type = 'table' AND m.sql NOT LIKE 'CREATE VIRTUAL %' THEN m.name END
) AS c
WHERE m.type = 'table' AND lower(m.name) IN ({names})
ORDER BY m.rowid, c.cid
"""


def read_snapshot(execute: Execute, known: Known = _NONE) -> Snapshot:
    """Read a snapshot, inside a transaction of the caller."""
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
    """Read the names of all tables, columns and indexes, inside a transaction.

    Args:
        execute: on the database.
        known: tables whose columns need not be read: the same statement creates the same.
    """
    tables: dict[str, Table] = {}
    strange: dict[str, str] = {}
    indexes: dict[str, str] = {}
    owners: dict[str, str] = {}
    triggers: dict[str, str] = {}
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
        elif kind == "trigger":
            triggers[name] = folded(table)
        elif kind == "view":
            others.add(name)
    columns = _columns(execute, strange) if strange else {}
    tables |= {name: Table(columns[name], text) for name, text in strange.items()}
    return Structure(tables, indexes, owners, frozenset(others), triggers)


def _columns(execute: Execute, tables: Iterable[str]) -> dict[str, dict[str, Column]]:
    """Read the columns of ``tables``, in one query."""
    found: dict[str, dict[str, Column]] = {name: {} for name in tables}
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in found)
    for table, name, kind, not_null, default, key, hidden in execute(_COLUMNS.format(names=names)):
        if name is None or hidden:
            continue
        required = bool(not_null) and default is None
        words = [kind, "NOT NULL" if not_null else "", f"DEFAULT {default}" if default else ""]
        declaration = "" if required else " ".join(filter(None, words))
        found[table][name] = Column(required, key, declaration)
    return found


def counts(execute: Execute, structure: Structure) -> dict[str, int]:
    """Count the rows of every table that is not bookkeeping.

    Virtual tables are left out: their modules may be missing, and other tables hold their rows.
    So is a table that only its own program can read. If only an index of a table needs its
    program, the table itself is counted.
    """
    names = [
        name
        for name in sorted(structure.own_tables)
        if not structure.tables[name].sql.startswith("CREATE VIRTUAL ")
    ]
    found: dict[str, int] = {}
    for begin in range(0, len(names), _AT_ONCE):
        found |= _counts(execute, names[begin : begin + _AT_ONCE])
    return found


def _counts(execute: Execute, names: Sequence[str]) -> dict[str, int]:
    try:
        rows = execute(" UNION ALL ".join(map(_counting, names)))
        return {name: int(row[0]) for name, row in zip(names, rows, strict=True)}
    except Exception as error:
        if not needs_its_program(error):
            raise
    found = {}
    for name in names:
        try:
            found[name] = count(execute, name)
        except Exception as error:
            if not needs_its_program(error):
                raise
    return found


def count(execute: Execute, table: str) -> int:
    """Count the rows of one table.

    SQLite reads the smallest index for that, which can need its own program.

    Raises:
        sqlite3.Error, sqlalchemy.exc.DBAPIError: only its own program can read the table.
    """
    try:
        [(number,)] = execute(_counting(table))
    except Exception as error:
        if not needs_its_program(error):
            raise
        [(number,)] = execute(f"{_counting(table)} NOT INDEXED")
    return int(number)


def _counting(table: str) -> str:
    return f"SELECT count(*) FROM {quoted(table)}"  # noqa: S608 - quoted


def folded(name: object) -> str:
    """Return a name as SQLite compares it: it ignores the case of ASCII letters only."""
    text = str(name)
    return text.lower() if text.isascii() else text.translate(_LOWER)
