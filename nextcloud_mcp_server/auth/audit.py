"""The audit log, written in the same transaction as the change itself."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import Integer, bindparam, delete, func, literal_column, select

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.auth import validation as valid
from nextcloud_mcp_server.auth.deletion import delete_pages, not_stored
from nextcloud_mcp_server.auth.statements import AT_ONCE, NextId, insertion, oldest
from nextcloud_mcp_server.backends.base import Connection, Row
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.key import Key, associated_data
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import FORMER, INTRODUCED, PRIMARY, V2, wrong_key
from nextcloud_mcp_server.schema.tables import audit_logs, keys

if TYPE_CHECKING:
    from nextcloud_mcp_server.auth.context import Access

#: The user id of entries without a user: the server's own OAuth client, a session before login.
SYSTEM: Final = "system"

#: The maximum number of entries that one call lists.
MOST: Final = 10_000

#: The most old entries that a new one deletes. More than one, so that a long log shrinks.
TOGETHER: Final = 10

_DAY: Final = 86_400

_RECORD: Final = insertion(audit_logs)
_c: Final = audit_logs.c
#: The id of the next entry, and that of the key that encrypts. In one statement, after the change:
#: who wrote the row first has the lower id.
NEXT: Final = select(
    NextId(_c.id).label("id"),
    select(func.min(keys.c.id))
    .where(keys.c.state == literal_column(f"'{PRIMARY}'"))
    .scalar_subquery()
    .label("key"),
)
_DELETE_FEW: Final = delete(audit_logs).where(_c.id.in_(oldest(_c.id, _c.timestamp, TOGETHER)))
_DELETE_PAGE: Final = delete(audit_logs).where(_c.id.in_(oldest(_c.id, _c.timestamp, AT_ONCE)))
_COUNT_BEFORE: Final = (
    select(func.count()).select_from(audit_logs).where(_c.timestamp < bindparam("before"))
)
_SINCE: Final = (
    select(audit_logs)
    .where(audit_logs.c.timestamp >= bindparam("since"))
    .order_by(audit_logs.c.timestamp.desc(), audit_logs.c.id.desc())
    .limit(bindparam("limit", type_=Integer))
)
_OF_USER: Final = _SINCE.where(audit_logs.c.user_id == bindparam("user_id"))


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry. ``timestamp`` is in seconds since 1970.

    ``digest`` has the hashes of the ciphertexts that the change has stored. ``mac`` is the id of a
    key, a colon, and a code of every other field that only this key can make; None without a key.
    """

    # The columns of the table, in their order.
    id: int
    timestamp: int
    event: str
    user_id: str
    resource_type: str | None
    resource_id: str | None
    auth_method: str | None
    hostname: str | None
    digest: str | None = field(default=None, repr=False, compare=False)
    mac: str | None = field(default=None, repr=False, compare=False)


_SIGNED: Final = [entry.name for entry in fields(AuditEntry) if entry.name != "mac"]
_signed_fields: Final = attrgetter(*_SIGNED)
_signed_columns: Final = itemgetter(*_SIGNED)


class Code(StrEnum):
    """Whether the code of an entry is right."""

    RIGHT = "right"
    #: Written before the upgrade, or without a key.
    UNSIGNED = "unsigned"
    #: The entry was forged or changed.
    WRONG = "wrong"
    #: Made with a key that was not given: it cannot be checked.
    UNKNOWN = "unknown"


#: Seconds by which the clocks of servers may differ.
_CLOCKS: Final = 3600

#: How the events begin that a command without a key records.
EXPIRED: Final = "delete_expired_"

#: What :func:`signature` returns.
_MAC: Final = re.compile(r"([0-9a-f]{16}):[0-9a-f]{64}")


class AuditLog:
    """Read the log, and add events from outside the store."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def add(
        self,
        event: str,
        user_id: str,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        auth_method: str | None = None,
    ) -> None:
        """Record an event from outside the store. Pass no secrets.

        Raises:
            TokenStorageError: ``bad-input``.
        """
        entry = {
            "timestamp": self._access.now(),
            "event": valid.text(event, "event"),
            "user_id": valid.user_id(user_id),
            "resource_type": valid.optional_text(resource_type, "resource_type"),
            "resource_id": valid.optional_text(resource_id, "resource_id"),
            "auth_method": valid.optional_text(auth_method, "auth_method"),
            "hostname": self._access.hostname,
        }
        await self._access.write(lambda connection: record(connection, entry, self._access))

    async def list(
        self, user_id: str | None = None, *, since: int = 0, limit: int = 100
    ) -> list[AuditEntry]:
        """Return the entries from ``since`` (seconds since 1970) on, newest first.

        Args:
            user_id: only this user; None for all.
            since: the earliest second.
            limit: the maximum number of entries, 1 to 10,000.

        Raises:
            TokenStorageError: ``bad-input``.
        """
        parameters: dict[str, Any] = {
            "since": valid.seconds(since, "since"),
            "limit": valid.count(limit, "limit", MOST),
        }
        if user_id is not None:
            parameters["user_id"] = valid.user_id(user_id)
        statement = _SINCE if user_id is None else _OF_USER
        rows = await self._access.read(lambda connection: connection.all(statement, parameters))
        return [AuditEntry(*row) for row in rows]

    async def count_before(self, timestamp: int) -> int:
        """Return how many entries are from before ``timestamp`` (seconds since 1970).

        Raises:
            TokenStorageError: ``bad-input``.
        """
        before = {"before": valid.seconds(timestamp, "timestamp")}
        row = await self._access.read(lambda connection: connection.first(_COUNT_BEFORE, before))
        return 0 if row is None else int(row[0])

    async def delete_before(self, timestamp: int) -> int:
        """Delete the entries from before ``timestamp``, and return how many were deleted.

        Works in batches, oldest first, so that others can write in between. Records nothing.

        Raises:
            TokenStorageError: ``bad-input``; ``ignored`` if a trigger keeps them.
        """
        before = {"before": valid.seconds(timestamp, "timestamp")}
        return await delete_pages(self._access, _DELETE_PAGE, before)


def record(
    connection: Connection,
    entry: Mapping[str, Any],
    access: Access,
    used: Key | None = None,
    following: Row | None = None,
) -> None:
    """Write one entry, in the transaction of the change, and delete some that are too old.

    Args:
        connection: of the change.
        entry: its fields, but for the id and the code.
        access: of the concern.
        used: the key that has encrypted what the change has stored.
        following: the row of :data:`NEXT`, if the change has returned it.

    Raises:
        TokenStorageError: ``ignored``; ``wrong-key`` if keys are registered, and none that has
            encrypted was given: an entry without a code would count as forged.
        PromotedError: ``used`` is not the key that encrypts any more.
    """
    following = following or connection.first(NEXT)
    if access.has_keys and (following is None or following[1] is None):
        # Another one may be storing the first secret, after whose entry this one needs a code.
        key_registry.wait_for_first_key(connection)
        following = connection.first(NEXT)
    number, name = (None, None) if following is None else following
    key = access.signing_key(name, used) or (_registered(connection, access) if name else None)
    row = {"digest": None, **entry, "id": number, "mac": None}
    if key is not None:
        row["mac"] = _code(_signed_columns(row), key)
    if not connection.run(_RECORD, row):
        raise not_stored("audit_logs")
    if (days := access.audit_retention_days) is not None:
        connection.run(_DELETE_FEW, {"before": entry["timestamp"] - days * _DAY})


def _registered(connection: Connection, access: Access) -> Key | None:
    """Return a given key that encrypted before, for a process without the one that does so now.

    None without any key: the command that deletes what is expired needs none.
    """
    known = key_registry.registered(connection)
    for row in known:
        if (row.kind, row.state) == (V2, FORMER) and (key := access.given(row.id)) is not None:
            return key
    if access.has_keys:
        raise wrong_key(known, access.keyring)
    return None


def signature(entry: AuditEntry, key: Key) -> str:
    """Return the code of an entry, as ``mac`` has it."""
    return _code(_signed_fields(entry), key)


def _code(signed: Sequence[Any], key: Key) -> str:
    return f"{key.id}:{key.authenticate(associated_data('audit', *signed)).hex()}"


def key_of(entry: AuditEntry) -> str:
    """Return the id of the key of an entry's code; empty without a well-formed code."""
    found = _MAC.fullmatch(str(entry.mac))
    return found[1] if found else ""


class Signatures(NamedTuple):
    """What the codes of a log are checked with; see :meth:`of`.

    Attributes:
        keyring: the given keys.
        names: the fingerprint of each registered key, by its id.
        signers: the ids of the keys that may have made a code.
        since: when the first key was registered, in seconds since 1970; None without one.
        first: the id of the oldest entry with a code; None if there is none.
    """

    keyring: Keyring | None
    names: Mapping[str, str]
    signers: frozenset[str]
    since: int | None
    first: int | None

    @classmethod
    def of(
        cls, keyring: Keyring | None, registered: Sequence[RegisteredKey], first: int | None
    ) -> Signatures:
        """Return what checks the entries of a log whose database has these keys.

        One that is only introduced has signed nothing: the primary key does not vouch for it.
        """
        signers = (row.id for row in registered if (row.kind, row.state) != (V2, INTRODUCED))
        names = {row.id: row.fingerprint for row in registered}
        since = min((row.created_at for row in registered if row.state != INTRODUCED), default=None)
        return cls(keyring, names, frozenset(signers), since, first)

    def is_later(self, entry: AuditEntry) -> bool:
        """Return whether an entry is newer than the first secret, so that it must have a code.

        The ids of entries tell: the clocks of servers differ. No engine gives an id below 1. Where
        no entry has a code, only the time can tell that the codes were removed.
        """
        if self.first is None:
            return self.since is not None and entry.timestamp > self.since + _CLOCKS
        return entry.id > self.first or entry.id < 1


def code_of(entry: AuditEntry, known: Signatures) -> Code:
    """Check the code of an entry with the key that it names."""
    if entry.mac is None:
        # A process that stores a secret has a key: only its code can be missing. Later on only
        # the command that deletes what is expired needs none.
        keyless = not known.is_later(entry) or entry.event.startswith(EXPIRED)
        return Code.UNSIGNED if entry.digest is None and keyless else Code.WRONG
    name = key_of(entry)
    if name not in known.signers:
        return Code.WRONG
    if known.keyring is None or (key := known.keyring.get(name)) is None:
        return Code.UNKNOWN
    return Code.RIGHT if hmac.compare_digest(signature(entry, key), entry.mac) else Code.WRONG
