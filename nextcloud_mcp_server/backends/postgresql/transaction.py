"""The transaction of a migration on PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from nextcloud_mcp_server.backends.postgresql.catalog import Place
from nextcloud_mcp_server.backends.postgresql.connect import Server, reason
from nextcloud_mcp_server.backends.postgresql.errors import driver_error
from nextcloud_mcp_server.progress import Reporter
from nextcloud_mcp_server.schema.reference import Reference
from nextcloud_mcp_server.schema.structure import Gaps, Structure, Table, quoted

if TYPE_CHECKING:
    from sqlalchemy import Connection


logger = logging.getLogger(__name__)


class PostgresTransaction:
    """A transaction whose ``search_path`` is the one schema.

    Args:
        connection: begun already.
        place: its tables, read on the same connection.
        server: for a dump.
        dump: the file for a dump before a migration; None for none.
        made: receives the dump that is made.
    """

    def __init__(
        self,
        connection: Connection,
        place: Place,
        server: Server,
        dump: Path | None,
        made: list[Path],
    ) -> None:
        self.connection = connection
        self._place = place
        self._server = server
        self._dump = dump
        self._made = made

    def execute(
        self, sql: str, parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Any]]:
        """Execute one statement; without parameters a '%' in it stays."""
        if parameters:
            result = self.connection.execute(text(sql), dict(parameters))
        else:
            options = {"no_parameters": True}
            result = self.connection.exec_driver_sql(sql, execution_options=options)
        return result.all() if result.returns_rows else ()

    def structure(self) -> Structure:
        """Read the catalog."""
        return self._place.structure()

    def versions(self) -> tuple[str | None, ...]:
        """Read the version table."""
        return self._place.versions()

    def count(self, table: str) -> int:
        """Count the rows of one table."""
        [(number,)] = self.execute(f"SELECT count(*) FROM {self._place.table(table)}")  # noqa: S608 - quoted
        return int(number)

    def row_counts(self, structure: Structure) -> dict[str, int]:
        """Count the rows of every table of this program."""
        return {name: self.count(name) for name in sorted(structure.own_tables)}

    def broken_references(self) -> set[tuple[Any, ...]]:
        """Return nothing: the server refuses a row that references none."""
        return set()

    def references(self, tables: Collection[str], dropped: Collection[str]) -> list[Reference]:
        """Return nothing: the server refuses to drop a table that another references."""
        return []

    def backup(
        self,
        revision: str | None,
        *,
        action: str,
        keys: Sequence[str] | None,
        report: Reporter,
    ) -> Path | None:
        """Write a dump of exactly what this transaction sees, if one was asked for."""
        if self._dump is None:
            return None
        from nextcloud_mcp_server.backends.postgresql.dump import write_dump  # noqa: PLC0415

        report("writing the dump")
        tables = [self._place.table(name) for name in self.structure().tables]
        self._made.append(write_dump(self._place, self._server, self._dump, tables))
        return self._dump

    def rename_back(self, tables: Iterable[str], prefix: str) -> None:
        """Rename the filled copies of an interrupted table recreation back."""
        for name in tables:
            self.execute(f"ALTER TABLE {quoted(prefix + name)} RENAME TO {quoted(name)}")

    def recreate(self, tables: Iterable[str], wanted: Structure) -> None:
        """Recreate disposable tables in their wanted shape, with the rows that fit."""
        for name in tables:
            old, new = self.structure().tables[name], wanted.tables[name]
            # Names of constraints are those of the schema, so the old table goes first.
            aside = quoted(f"_replaced_{name}")
            self.execute(
                f"CREATE TEMPORARY TABLE {aside} ON COMMIT DROP AS SELECT * FROM {quoted(name)}"  # noqa: S608 - quoted
            )
            self.execute(f"DROP TABLE {quoted(name)}")
            self.execute(new.sql)
            self._copy(name, aside, old, new)
            self.execute(f"DROP TABLE {aside}")
            for index, owner in wanted.owners.items():
                if owner == name:
                    self.execute(wanted.indexes[index])

    def _copy(self, name: str, aside: str, old: Table, new: Table) -> None:
        shared = [column for column in new.columns if column in old.columns]
        if not new.required <= set(shared):
            return
        columns = ", ".join(map(quoted, shared))
        filled = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in sorted(new.required))
        self.execute(
            f"INSERT INTO {quoted(name)} ({columns}) SELECT {columns} FROM {aside} "  # noqa: S608 - quoted
            f"WHERE {filled} ON CONFLICT DO NOTHING"
        )

    def add(self, missing: Gaps, wanted: Structure) -> None:
        """Add missing tables, then columns, then indexes, with the statements of ``wanted``."""
        for name in missing.tables:
            self.execute(wanted.tables[name].sql)
        for name, column in missing.columns:
            declaration = wanted.tables[name].columns[column].declaration
            self.execute(f"ALTER TABLE {quoted(name)} ADD COLUMN {quoted(column)} {declaration}")
        for index in missing.indexes:
            # Those of a table that was created here came with its statements.
            self.execute(wanted.indexes[index])

    def drop(self, table: str) -> None:
        """Drop a table if it exists."""
        self.execute(f"DROP TABLE IF EXISTS {quoted(table)}")

    @contextmanager
    def keep_attached(self, ours: Iterable[str]) -> Iterator[None]:
        """Create an operator's indexes again that the body drops with their table."""
        before, own = self.structure(), frozenset(ours)
        yield
        after = self.structure()
        for name, sql in before.indexes.items():
            table = before.owners[name]
            if name in own or name in after.indexes or table not in after.tables:
                continue
            try:
                # An error ends the transaction, unless a savepoint keeps it.
                with self.connection.begin_nested():
                    self.execute(sql)
            except DatabaseError as error:
                # The text of the driver has the values of a row.
                why = reason(driver_error(error))
                logger.warning("%s on %s could not be created again: %s", name, table, why)
