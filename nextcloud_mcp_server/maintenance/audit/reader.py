"""Read the audit log and the rows that it names, on each engine and in any state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from nextcloud_mcp_server.auth.audit import AuditEntry, Signatures
from nextcloud_mcp_server.backends.base import Database
from nextcloud_mcp_server.backends.keys import RegisteredKey, has_keys, registered_keys
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import naming
from nextcloud_mcp_server.backends.sqlite.inspect import readable
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.schema.structure import KEYS, Structure, quoted
from nextcloud_mcp_server.schema.tables import audit_logs

if TYPE_CHECKING:
    import sqlite3

    from nextcloud_mcp_server.backends.postgresql.catalog import Place
    from nextcloud_mcp_server.backends.postgresql.database import PostgresDatabase

LOG: Final = audit_logs.name
_SIGNED: Final = ("digest", "mac")


class Source(Protocol):
    """One engine: statements with :attr:`mark` for each parameter, and rows one by one."""

    mark: str
    #: The column by which rows of a table are paged, if it is not its key.
    rowid: str

    def moment(self) -> Any:
        """Begin a transaction that reads one moment of the database, and end it."""

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        """Yield the rows of a statement, in a :meth:`moment`; they are not held in memory."""

    def table(self, name: str) -> str:
        """Return the name of a table, as SQL."""


class Reader:
    """The tables of a database: the audit log, the registered keys, and rows with secrets."""

    def __init__(self, source: Source, structure: Structure) -> None:
        self.source = source
        self._structure = structure

    def columns(self, table: str) -> Collection[str]:
        """Return the columns of a table; none if it is missing."""
        found = self._structure.tables.get(table)
        return () if found is None else found.columns.keys()

    @property
    def is_signed(self) -> bool:
        """Whether entries have digests and codes: since revision 103."""
        return set(_SIGNED) <= set(self.columns(LOG))

    def keys(self) -> Sequence[RegisteredKey]:
        """Return every registered key, in a moment; none before revision 103."""
        if not (self.is_signed and has_keys(self._structure)):
            return ()
        found = self.source.rows(registered_keys(self.source.table(KEYS)))
        return [RegisteredKey.of(row) for row in found]

    def signatures(self, keyring: Keyring | None) -> Signatures:
        """Return what the codes of the entries are checked with, in this moment."""
        first = None
        if self.is_signed:
            log = self.source.table(LOG)
            sql = f"SELECT id FROM {log} WHERE mac IS NOT NULL ORDER BY id LIMIT 1"  # noqa: S608 - quoted
            first = next((int(row[0]) for row in self.source.rows(sql)), None)
        return Signatures.of(keyring, self.keys(), first)

    def renewed(self, known: Signatures) -> Signatures:
        """Return the same for a later moment, in which there may be more keys."""
        return Signatures.of(known.keyring, self.keys(), known.first)

    def entries(self, rest: str, parameters: Sequence[Any] = ()) -> Iterator[AuditEntry]:
        """Yield the entries of ``SELECT ... FROM audit_logs`` and the ``rest``, in a moment."""
        there = self.columns(LOG)
        names = (quoted(c.name) if c.name in there else "NULL" for c in audit_logs.columns)
        sql = f"SELECT {', '.join(names)} FROM {self.source.table(LOG)} {rest}"  # noqa: S608 - quoted
        for row in self.source.rows(sql, parameters):
            yield AuditEntry(*row)


@contextmanager
def reading(database: Database) -> Iterator[tuple[Inspection, Reader | None]]:
    """Yield the state of a database, and a reader; None if there is no audit log to read.

    Raises:
        TokenStorageError: the database cannot be read; its state's own code if a start refuses
            it and it has no audit log.
    """
    database.check()
    inspection = Inspection.of(database, database.inspect())
    structure = inspection.snapshot.structure
    log = structure.tables.get(LOG)
    if log is None or not {"id", "timestamp", "event", "user_id"} <= log.columns.keys():
        if inspection.refusal is not None:
            raise inspection.refusal
        yield inspection, None
        return
    with ExitStack() as stack:
        source: Source
        if isinstance(database.location, Path):
            path, _ = stack.enter_context(readable(database.location))
            stack.enter_context(naming(path))
            source = _File(stack.enter_context(closing(connect_read_only(path))))
        else:
            source = _Server(stack.enter_context(_place(database)))
        yield inspection, Reader(source, structure)


@contextmanager
def _place(database: Any) -> Iterator[Place]:
    made: PostgresDatabase = database
    with made.reading(snapshot=False) as (place, _):
        yield place


class _File:
    mark = "?"
    rowid = "rowid"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @contextmanager
    def moment(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        with closing(self._connection.execute(sql, parameters)) as cursor:
            yield from cursor

    def table(self, name: str) -> str:
        return quoted(name)


class _Server:
    mark = "%s"
    rowid = ""

    def __init__(self, place: Place) -> None:
        self._place = place

    @contextmanager
    def moment(self) -> Iterator[None]:
        from nextcloud_mcp_server.backends.postgresql.database import READ_ONLY  # noqa: PLC0415

        self._place.rows(READ_ONLY)
        try:
            yield
        finally:
            self._place.rows("ROLLBACK")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Sequence[Any]]:
        # On the server, because a user may have a million entries.
        with self._place.connection.cursor(name="audit") as cursor:
            cursor.execute(sql, parameters)
            yield from cursor

    def table(self, name: str) -> str:
        return self._place.table(name)
