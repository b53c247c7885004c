"""The keys that a database has registered: which of them encrypts, and what is still accepted.

A key of the kind ``v2`` encrypts with the row as associated data. One of the kind ``fernet`` opens
what released versions have stored; while there is one, values in plain text are accepted too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Select, bindparam, delete, literal, or_, select, update

from nextcloud_mcp_server.auth.statements import (
    ciphertext,
    has_key,
    insertion,
    is_old,
    key_prefixes,
    locking,
)
from nextcloud_mcp_server.backends.base import SAMPLE_SIZE, Connection
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto import registration
from nextcloud_mcp_server.crypto.registration import (
    FERNET,
    FORMER,
    PRIMARY,
    RETIRED,
    V2,
    check_value,
    given_primary,
    wrong_key,
)
from nextcloud_mcp_server.schema.secrets import HASHED, SECRETS
from nextcloud_mcp_server.schema.structure import ENCRYPTED
from nextcloud_mcp_server.schema.tables import audit_logs, keys, metadata

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.key import Key
    from nextcloud_mcp_server.crypto.keyring import Keyring

_c: Final = keys.c
_REGISTERED: Final = select(*(_c[name] for name in RegisteredKey._fields)).order_by(
    _c.created_at, _c.id
)
_REGISTER: Final = insertion(keys)
#: Who registers a key waits for others who do; readers and other writers go on.
_LOCK: Final = locking(keys, "SHARE ROW EXCLUSIVE")

#: Who writes an entry of the audit log that no key signs yet waits for those, too.
_LOCK_SHARED: Final = locking(keys, "ROW EXCLUSIVE")

#: Who changes which key encrypts, or what is accepted, waits for every transaction that has read
#: the keys, as each one that stores a secret does before its commit.
_BARRIER: Final = locking(keys, "ACCESS EXCLUSIVE")
_FORGET: Final = delete(keys)
_FORGET_ONE: Final = delete(keys).where(_c.id == bindparam("of_id"))
_CHANGE: Final = update(keys).where(_c.id == bindparam("of_id")).values(state=bindparam("to_state"))
_SIGN: Final = update(keys).where(_c.id == bindparam("of_id")).values(check=bindparam("to_check"))

_EVERY: Final = [
    select(ciphertext(column)).where(column.is_not(None))
    for column in (metadata.tables[table].c[name] for table, name in ENCRYPTED)
]
_SAMPLES: Final = [statement.limit(SAMPLE_SIZE) for statement in _EVERY]

#: Seconds for which a database without keys counts as searched, at least.
_SEARCHED: Final = 1.0

_SECRETS: Final = [metadata.tables[secret.table].c[secret.column] for secret in SECRETS]
_IDS: Final = [metadata.tables[table].c[name] for table, name in HASHED]
#: A signed entry of the audit log, or a secret that a key has encrypted.
_ANY_V2: Final = select(literal(1)).where(
    or_(
        select(literal(1)).where(audit_logs.c.mac.is_not(None)).exists(),
        *(select(literal(1)).where(has_key(column)).exists() for column in _SECRETS),
    )
)
_ANY_OLD: Final = select(literal(1)).where(
    or_(*(select(literal(1)).where(is_old(column)).exists() for column in (*_SECRETS, *_IDS)))
)


def registered(connection: Connection) -> list[RegisteredKey]:
    """Return every key of the database, oldest first."""
    return [RegisteredKey.of(row) for row in connection.all(_REGISTERED)]


def register(connection: Connection, key: Key, kind: str, state: str, now: int) -> None:
    """Register a key that is not registered yet."""
    name = registration.name_of(key, kind)
    row = RegisteredKey(name, kind, state, check_value(key, kind), key.fingerprint, now)
    connection.run(_REGISTER, row._asdict())


def change_state(connection: Connection, name: str, state: str) -> None:
    """Change the state of the key with this id."""
    connection.run(_CHANGE, {"of_id": name, "to_state": state})


def sign(connection: Connection, primary: Key) -> None:
    """Let the primary key sign what is registered. Every change of the table ends with it."""
    check = registration.primary_check(primary, registered(connection))
    connection.run(_SIGN, {"of_id": primary.id, "to_check": check})


def end_primary(connection: Connection, primary: Key) -> None:
    """Let the primary key open only: what it has signed is not kept."""
    change_state(connection, primary.id, FORMER)
    connection.run(_SIGN, {"of_id": primary.id, "to_check": check_value(primary, V2)})


def wait_for_writers(connection: Connection) -> None:
    """Wait for every running transaction that stores a secret; later ones wait for this one."""
    connection.run(_BARRIER)


def wait_for_registrations(connection: Connection) -> None:
    """Wait for every transaction that registers a key; later ones wait for this one."""
    connection.run(_LOCK)


def wait_for_first_key(connection: Connection) -> None:
    """Wait for the transaction that registers the first key; later ones wait for this one."""
    connection.run(_LOCK_SHARED)


def primary_key(
    connection: Connection, keyring: Keyring, now: int, database: str = "the database"
) -> Key:
    """Return the key that encrypts in this transaction; register one if there is none.

    So the first secret decides: of two servers with two keys on one new database, the other one
    is refused here. An error names ``database``.

    Raises:
        TokenStorageError: ``wrong-key`` if it was not given; nothing was written.
    """
    if not (known := registered(connection)):
        known = adopt(connection, keyring, keyring.keys[0], now)
    return given_primary(known, keyring, database)


def adopt(connection: Connection, keyring: Keyring, primary: Key, now: int) -> list[RegisteredKey]:
    """Register a given key as primary, and older ones for what they have encrypted.

    Does nothing if a key is registered. Returns every key of the database.

    Raises:
        TokenStorageError: ``wrong-key`` if no given key opens what is stored.
    """
    wait_for_registrations(connection)
    if known := registered(connection):
        return known
    if not _opens_one(connection, keyring):
        raise wrong_key((), keyring)
    # A database without keys that has secrets of one, or signed entries, has lost the table: then
    # nobody can tell whether Fernet was accepted there.
    released = connection.first(_ANY_OLD) is not None and not _has_v2(connection, keyring)
    register(connection, primary, V2, PRIMARY, now)
    older = keyring.keys[keyring.keys.index(primary) + 1 :]
    for key in keyring.keys if released else older:
        register(connection, key, FERNET if released else V2, FORMER, now)
    sign(connection, primary)
    return registered(connection)


def key_in_use(connection: Connection, keyring: Keyring) -> Key:
    """Return the newest given key that opens a secret; the oldest one if none opens any.

    Where no key is registered, every process that has stored a secret has that key.
    """
    openers = set(_openers(connection, keyring, _SAMPLES))
    in_use = (key for key in keyring.keys if key.fingerprint in openers)
    return next(in_use, keyring.keys[-1])


def recover(connection: Connection, key: Key, now: int) -> list[str]:
    """Let ``key`` encrypt and sign a table that the primary key cannot vouch for.

    Which values of released versions were accepted is unknown, so none is any more, and what
    this program does not write is removed. Returns the ids of the keys that were accepted for them.
    """
    known = registered(connection)
    connection.run(_FORGET)
    for row in known:
        if (row.kind, row.id) == (V2, key.id) or not registration.is_well_formed(row):
            continue
        state = RETIRED if row.kind == FERNET else FORMER if row.state == PRIMARY else row.state
        connection.run(_REGISTER, row._replace(state=state)._asdict())
    register(connection, key, V2, PRIMARY, now)
    sign(connection, key)
    return registration.accepted(filter(registration.is_well_formed, known))


def renew(connection: Connection, key: Key, state: str, now: int) -> None:
    """Register a v2 key again: nobody has signed the row of one that is only introduced."""
    connection.run(_FORGET_ONE, {"of_id": key.id})
    register(connection, key, V2, state, now)


def _opens_one(connection: Connection, keyring: Keyring) -> bool:
    """Return whether a key opens one of the secrets, or there is none."""
    there = False
    for opener in _openers(connection, keyring, (*_SAMPLES, *_EVERY)):
        if opener is not None:
            return True
        there = True
    return not there


def _openers(
    connection: Connection, keyring: Keyring, statements: Iterable[Select[Any]]
) -> Iterator[str | None]:
    """Yield the fingerprint of the given key that opens each secret; None if none does."""
    for statement in statements:
        for [value] in connection.all(statement):
            yield keyring.key_of(value)


def _has_v2(connection: Connection, keyring: Keyring) -> bool:
    """Return whether one of the given keys has encrypted a secret, or the audit log is signed."""
    return any(connection.first(_ANY_V2, key_prefixes(key.id)) for key in keyring.keys)


class Acceptance:
    """Whether values of released versions are accepted, for one open database.

    They are until the last key of the kind ``fernet`` is retired.
    """

    __slots__ = ("_is_registered", "_searched_until", "_signed")

    def __init__(self) -> None:
        #: Whether a key was registered at any time: then an empty table was emptied.
        self._is_registered = False
        #: Until when an empty table need not be searched for again.
        self._searched_until = float("-inf")
        #: The registered keys whose states were verified.
        self._signed: list[RegisteredKey] = []

    def end(self) -> None:
        """Note that a key was registered: a secret of the second format was read."""
        self._is_registered = True

    def accepts(
        self,
        connection: Connection,
        keyring: Keyring,
        require_primary: Callable[[Sequence[RegisteredKey]], None],
        fingerprint: str | None = None,
        *,
        committed: bool = False,
    ) -> bool:
        """Return whether a value is accepted that a released version has stored.

        Args:
            connection: of the unit that has read the value.
            keyring: the given keys.
            require_primary: raises if the primary key was not given, or if the registered keys
                were changed without it.
            fingerprint: of the key that opens it; None for a value in plain text.
            committed: whether what is read cannot be undone any more.
        """
        known = registered(connection)
        if not known:
            return not self._is_registered and self._is_released(connection, keyring)
        if committed:
            self.end()
        if not registration.accepts_old(known, fingerprint):
            return False
        if known != self._signed:
            require_primary(known)
            self._signed = known
        return True

    def _is_released(self, connection: Connection, keyring: Keyring) -> bool:
        """Return whether nobody has stored a secret since the upgrade, which registers a key.

        The rows, of which there may be a million, are searched for a hundredth of the time.
        """
        begun = time.monotonic()
        if begun >= self._searched_until:
            self._is_registered = _has_v2(connection, keyring)
            took = time.monotonic() - begun
            self._searched_until = begun + max(_SEARCHED, 100 * took)
        return not self._is_registered
