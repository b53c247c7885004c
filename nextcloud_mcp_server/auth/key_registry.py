"""The keys that a database has registered: which of them encrypts, and what is still accepted.

A key of the kind ``v2`` encrypts with the row as associated data. One of the kind ``fernet`` opens
what released versions have stored; while there is one, values in plain text are accepted too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Select, bindparam, literal, or_, select, update

from nextcloud_mcp_server.auth.statements import ciphertext, insertion, is_old, is_v2, locking
from nextcloud_mcp_server.backends.base import SAMPLE_SIZE, Connection, RegisteredKey
from nextcloud_mcp_server.crypto import registration
from nextcloud_mcp_server.crypto.registration import (
    FERNET,
    FORMER,
    PRIMARY,
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

#: Who changes which key encrypts, or what is accepted, waits for every transaction that has read
#: the keys, as each one that stores a secret does before its commit.
_BARRIER: Final = locking(keys, "ACCESS EXCLUSIVE")
_CHANGE: Final = update(keys).where(_c.id == bindparam("of_id")).values(state=bindparam("to_state"))
_SIGN: Final = update(keys).where(_c.id == bindparam("of_id")).values(check=bindparam("to_check"))

_EVERY: Final = [
    select(ciphertext(column)).where(column.is_not(None))
    for column in (metadata.tables[table].c[name] for table, name in ENCRYPTED)
]
_SAMPLES: Final = [statement.limit(SAMPLE_SIZE) for statement in _EVERY]

_SECRETS: Final = [metadata.tables[secret.table].c[secret.column] for secret in SECRETS]
_IDS: Final = [metadata.tables[table].c[name] for table, name in HASHED]
#: A secret of the second format, or a signed entry of the audit log.
_ANY_V2: Final = select(literal(1)).where(
    or_(
        *(select(literal(1)).where(is_v2(column)).exists() for column in _SECRETS),
        select(literal(1)).where(audit_logs.c.mac.is_not(None)).exists(),
    )
)
_ANY_OLD: Final = select(literal(1)).where(
    or_(*(select(literal(1)).where(is_old(column)).exists() for column in (*_SECRETS, *_IDS)))
)


def registered(connection: Connection) -> list[RegisteredKey]:
    """Return every key of the database, oldest first."""
    return [RegisteredKey(*row) for row in connection.all(_REGISTERED)]


def register(connection: Connection, key: Key, kind: str, state: str, now: int) -> None:
    """Register a key that is not registered yet. Afterwards :func:`sign` what is registered."""
    name = key.id if kind == V2 else key.fingerprint
    row = {
        "id": name,
        "kind": kind,
        "state": state,
        "check": check_value(key, kind),
        "fingerprint": key.fingerprint,
        "created_at": now,
    }
    connection.run(_REGISTER, row)


def change_state(connection: Connection, name: str, state: str) -> None:
    """Change the state of the key with this id."""
    connection.run(_CHANGE, {"of_id": name, "to_state": state})


def sign(connection: Connection, primary: Key) -> None:
    """Let the primary key sign that it is, and what is accepted."""
    accepting = registration.accepted(registered(connection))
    signed = registration.primary_check(primary, accepting)
    connection.run(_SIGN, {"of_id": primary.id, "to_check": signed})


def end_primary(connection: Connection, name: str, key: Key | None) -> None:
    """Let a key open only. If it is given, what it has signed as primary key is not kept."""
    change_state(connection, name, FORMER)
    if key is not None:
        connection.run(_SIGN, {"of_id": name, "to_check": check_value(key, V2)})


def wait_for_writers(connection: Connection) -> None:
    """Wait for every running transaction that stores a secret; later ones wait for this one."""
    connection.run(_BARRIER)


def wait_for_registrations(connection: Connection) -> None:
    """Wait for every transaction that registers a key; later ones wait for this one."""
    connection.run(_LOCK)


def primary_key(connection: Connection, keyring: Keyring, now: int) -> Key:
    """Return the key that encrypts in this transaction; register one if there is none.

    So the first secret decides: of two servers with two keys on one new database, the other one
    is refused here.

    Raises:
        TokenStorageError: ``wrong-key`` if it was not given; nothing was written.
    """
    if not (known := registered(connection)):
        known = adopt(connection, keyring, keyring.keys[0], now)
    return given_primary(known, keyring)


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
    # A database without keys that has texts of the second format, or signed entries, has lost the
    # table: then nobody can tell whether Fernet was accepted there.
    released = connection.first(_ANY_OLD) is not None and connection.first(_ANY_V2) is None
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


class Acceptance:
    """Whether values of released versions are accepted, for one open database.

    They are until the last key of the kind ``fernet`` is retired.
    """

    __slots__ = ("_is_released", "_signed")

    def __init__(self) -> None:
        #: Whether there was no key, no secret of the second format and no signed entry.
        self._is_released = False
        #: The registered keys whose states were verified.
        self._signed: list[RegisteredKey] = []

    def accepts(
        self,
        connection: Connection,
        require_primary: Callable[[Sequence[RegisteredKey]], None],
        fingerprint: str | None = None,
    ) -> bool:
        """Return whether a value is accepted that a released version has stored.

        Args:
            connection: of the unit that has read the value.
            require_primary: raises if the primary key was not given, or if the registered keys
                were changed without it.
            fingerprint: of the key that opens it; None for a value in plain text.
        """
        known = registered(connection)
        if not known:
            # Nobody has stored a secret since the upgrade: that would have registered a key. So
            # the rows, of which there may be a million, are searched once.
            self._is_released = self._is_released or connection.first(_ANY_V2) is None
            return self._is_released
        self._is_released = False
        if not registration.accepts_old(known, fingerprint):
            return False
        if known != self._signed:
            require_primary(known)
            self._signed = known
        return True
