"""The base of the concerns: each change and its entry in the audit log are one transaction.

Also the base of their rows that expire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar

from nextcloud_mcp_server.auth.audit import NEXT, SYSTEM, record
from nextcloud_mcp_server.auth.deletion import not_stored
from nextcloud_mcp_server.auth.secrets import Reading, digests, has_secrets, sealed
from nextcloud_mcp_server.auth.statements import AT_ONCE, Upsert, affected, kept
from nextcloud_mcp_server.auth.values import check_row
from nextcloud_mcp_server.crypto.binding import stored_id
from nextcloud_mcp_server.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance
    from sqlalchemy import Delete, Executable, Select

    from nextcloud_mcp_server.auth.context import Access
    from nextcloud_mcp_server.backends.base import Connection, Row
    from nextcloud_mcp_server.crypto.key import Key

T = TypeVar("T")
R = TypeVar("R", bound="DataclassInstance")


#: Returns seconds since 1970.
Clock = Callable[[], float]


class Expiring:
    """A row that expires, by the clock of its store. Both are fields of the subclass."""

    __slots__ = ()

    expires_at: int | None
    _clock: Clock

    @property
    def is_expired(self) -> bool:
        """Whether it is expired now. Without ``expires_at`` it never is."""
        return self.expires_at is not None and self.expires_at <= self._clock()


def from_row(kind: type[R], row: Row, **read: Any) -> R:
    """Return ``row`` as ``kind``; what is not in ``read`` is in the column of the same name."""
    names = kind.__dataclass_fields__
    values = [read[name] if name in read else getattr(row, name) for name in names]
    return kind(*[v.reveal() if isinstance(v, Secret) else v for v in values])


class Concern:
    """One concern of the store, usually one table."""

    __slots__ = ("_access",)

    _table: ClassVar[str]
    #: The key of the table.
    _key: ClassVar[str] = "user_id"
    #: ``auth_method`` and ``resource_type`` of the entries in the audit log.
    _auth_method: ClassVar[str | None] = None
    _resource_type: ClassVar[str | None] = None

    def __init__(self, access: Access) -> None:
        self._access = access

    def __reduce__(self) -> NoReturn:
        self._access.__reduce__()

    async def _get(
        self, statement: Select[Any], key: Mapping[str, Any], read: Callable[[Row, Reading], T]
    ) -> T | None:
        """Read the first row; None if there is none.

        A statement that looks up a key has :func:`~.statements.in_row`. ``read`` makes the result
        off the event loop, because decrypting is slow.
        """
        access = self._access

        def unit(connection: Connection) -> T | None:
            reading = Reading(access, connection, committed=True)
            for asked in reading.lookups(key):
                if (row := connection.first(statement, asked)) is not None:
                    if "own" in row._fields:
                        is_credential = self._resource_type is not None
                        check_row(asked.values(), row.own, self._table, secret=is_credential)
                    return read(row, reading)
            return None

        return await access.read(unit)

    async def _write(
        self,
        statement: Executable,
        parameters: Mapping[str, Any],
        event: str,
        user_id: str | None = None,
        *,
        at: int | None = None,
        recorded: bool = True,
    ) -> bool:
        """Run ``statement`` and record ``event``; False, and no entry, if no row was changed.

        The secrets among the parameters are encrypted in the transaction. With ``recorded`` false
        there is no entry in any case.
        """
        access = self._access
        now = access.now() if at is None else at
        encrypts = has_secrets(self._table, parameters)

        def unit(connection: Connection) -> bool:
            key = access.primary_key(connection) if encrypts else None
            row = parameters if key is None else sealed(self._table, parameters, key)
            following = self._change(connection, statement, row)
            if following is None:
                return False
            if recorded:
                self._record(
                    connection, event, user_id, at=now, row=row, used=key, following=following
                )
            else:
                self._check_key(connection, key, following)
            if connection.has_triggers:
                self._require_kept(connection, statement, row)
            return True

        # An upsert may run twice: at worst there are two entries in the audit log.
        return await access.write(unit, again=isinstance(statement, Upsert))

    async def _delete_all(
        self,
        rows: Select[Any],
        statement: Delete,
        event: str,
        parameters: Mapping[str, Any] | None = None,
    ) -> int:
        """Delete each of ``rows`` and record ``event`` for it; return how many were deleted.

        If there are many, each page of them is a transaction, and others can write in between.
        ``rows`` selects at least the key and ``user_id``, as :func:`~.statements.expired` does;
        ``statement`` deletes the row of one key, and repeats the condition of ``rows`` if that
        can change meanwhile. Beside ``parameters`` both have ``now`` and the key.
        """
        now = self._access.now()
        given: dict[str, Any] = {"now": now, **(parameters or {})}
        deleted = 0
        before: list[str | bytes] = []

        def unit(connection: Connection) -> tuple[int, list[str | bytes]]:
            keys: list[str | bytes] = []
            gone = 0
            lookups = Reading(self._access, connection).lookups(given)
            found = next(filter(None, (connection.all(rows, asked) for asked in lookups)), ())
            for row in found:
                key = getattr(row, self._key)
                keys.append(key)
                named = {self._key: key}
                following = self._change(connection, statement, {**given, **named})
                if following is None:
                    continue
                gone += 1
                if self._is_recorded(row):
                    self._record(
                        connection, event, row.user_id, at=now, row=named, following=following
                    )
            return gone, keys

        while True:
            begun = time.monotonic()
            gone, keys = await self._access.write(unit)
            deleted += gone
            # The same rows again: nothing can delete them, as with a damaged index.
            if len(keys) < AT_ONCE or keys == before:
                return deleted
            before = keys
            # A writer of another process, whose attempts become rare, would seldom find a gap.
            await asyncio.sleep(time.monotonic() - begun)

    def _is_recorded(self, row: Row) -> bool:
        """Return whether the deletion of a row has an entry: not if it concerns nobody."""
        del row
        return True

    def _check_key(self, connection: Connection, used: Key | None, following: Row | None) -> None:
        """Check, as an entry does, that the key which has encrypted is still the one that does."""
        found = following or connection.first(NEXT)
        self._access.signing_key(None if found is None else found[1], used)

    def _run(
        self, connection: Connection, statement: Executable, parameters: Mapping[str, Any]
    ) -> bool:
        """Run a write; False if there is no row to change. Raise ``ignored`` if it stays."""
        if connection.run(statement, parameters):
            return True
        self._require_absent(connection, statement, parameters)
        return False

    def _change(
        self, connection: Connection, statement: Executable, parameters: Mapping[str, Any]
    ) -> Row | None:
        """Do the same for :meth:`_record`, and return what follows; None for False."""
        following = connection.change(statement, NEXT, parameters)
        if following is None:
            self._require_absent(connection, statement, parameters)
        return following

    def _require_absent(
        self, connection: Connection, statement: Executable, parameters: Mapping[str, Any]
    ) -> None:
        if statement.is_insert or connection.first(affected(statement), parameters):
            raise not_stored(self._table)

    def _require_kept(
        self, connection: Connection, statement: Executable, parameters: Mapping[str, Any]
    ) -> None:
        """Raise ``ignored`` if a trigger has undone a write."""
        if statement.is_insert:
            undone = connection.first(kept(statement), parameters) is None
        else:
            there = connection.first(affected(statement), parameters)
            undone = statement.is_delete and there is not None
        if undone:
            raise not_stored(self._table)

    def _record(
        self,
        connection: Connection,
        event: str,
        user_id: str | bytes | None,
        *,
        at: int,
        row: Mapping[str, Any],
        used: Key | None = None,
        following: Row | None = None,
    ) -> None:
        """Record ``event``: ``row`` has the key and the ciphertexts, encrypted with ``used``."""
        key = row[self._key] if self._resource_type else None
        if isinstance(user_id, bytes):
            user_id = user_id.decode("utf-8", "replace")
        entry = {
            "timestamp": at,
            "event": event,
            "user_id": user_id or SYSTEM,
            "resource_type": self._resource_type,
            "resource_id": None if key is None else stored_id(key),
            "auth_method": self._auth_method,
            "hostname": self._access.hostname,
            "digest": None if used is None else digests(self._table, row),
        }
        record(connection, entry, self._access, used, following)
