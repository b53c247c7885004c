"""Register a key on a database, and let it encrypt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.auth.audit import SYSTEM, record
from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.key import Key
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import (
    FERNET,
    FORMER,
    INTRODUCED,
    PRIMARY,
    RETIRED,
    V2,
    given_primary,
    is_checked,
    name_of,
)
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.opened import Opened, opened
from nextcloud_mcp_server.settings import Settings

#: The event of a key that encrypts from now on.
PROMOTED: Final = "promote_key"


class Changed(NamedTuple):
    """The state of a key after a command.

    Attributes:
        fingerprint: the key.
        kind: ``v2`` or ``fernet``.
        state: its state.
        changed: whether the command has changed it.
    """

    fingerprint: str
    kind: str
    state: str
    changed: bool


def introduce(settings: Settings, name: str | None = None, *, fernet: bool = False) -> Changed:
    """Register a given key: it opens, and does not encrypt yet.

    Where no key is registered, the one in use becomes primary first: another process may have no
    newer one yet. Without a ``name``, and if no newer one was given, that is all.

    Args:
        settings: name the database and the keys.
        name: the fingerprint of a given key. None for the newest that is not registered; with
            ``fernet`` for the only one.
        fernet: register it for values of released versions, which are accepted again then.

    Raises:
        TokenStorageError: ``bad-input`` if that key was not given, or if it is not clear which one
            is meant; ``wrong-key`` if the primary key was not given, or if no given key opens what
            is stored in a database without a registered key; ``keys-changed``; or as
            :func:`~.opened.opened`.
    """
    kind = FERNET if fernet else V2
    with opened(settings) as place:

        def unit(connection: Connection) -> Changed:
            now = place.access.now()
            if not key_registry.registered(connection):
                first = key_registry.key_in_use(connection, place.keyring)
                key_registry.adopt(connection, place.keyring, first, now)
                record_change(connection, place.access, PROMOTED, first.fingerprint, V2)
                only = name is None and first is place.keyring.keys[0]
                if (only and not fernet) or name == first.fingerprint:
                    return Changed(first.fingerprint, V2, PRIMARY, changed=True)
            key_registry.wait_for_registrations(connection)
            known = key_registry.registered(connection)
            primary = given_primary(known, place.keyring, str(place.database))
            key = _to_introduce(known, place, name, kind)
            row = _row(known, key, kind)
            if row is not None and row.state != RETIRED:
                if (row.kind, row.state) == (V2, INTRODUCED) and not is_checked(row, key):
                    key_registry.renew(connection, key, INTRODUCED, now)
                return Changed(key.fingerprint, kind, row.state, changed=False)
            # One that has encrypted before has entries in the audit log: it stays known for them.
            state = FORMER if fernet or row is not None else INTRODUCED
            if row is None:
                key_registry.register(connection, key, kind, state, now)
            else:
                key_registry.change_state(connection, row.id, state)
            key_registry.sign(connection, primary)
            record_change(connection, place.access, "introduce_key", key.fingerprint, kind)
            return Changed(key.fingerprint, kind, state, changed=True)

        return place.write(unit)


def promote(settings: Settings, name: str) -> Changed:
    """Let an introduced key encrypt from now on; the one that did so opens only.

    Waits for every transaction that stores a secret. Each later one encrypts with this key.

    Raises:
        TokenStorageError: ``bad-input`` if the key is not registered or was not given;
            ``wrong-key`` if the primary key was not given; ``keys-changed``; or as
            :func:`~.opened.opened`.
    """
    with opened(settings) as place:

        def unit(connection: Connection) -> Changed:
            key_registry.wait_for_writers(connection)
            known = key_registry.registered(connection)
            key = given(place.keyring, name)
            row = _row(known, key, V2)
            if row is None or row.state == RETIRED:
                raise _not_introduced(key, place)
            primary = given_primary(known, place.keyring, str(place.database))
            if primary is key:
                return Changed(key.fingerprint, V2, PRIMARY, changed=False)
            key_registry.end_primary(connection, primary)
            if row.state == INTRODUCED:
                key_registry.renew(connection, key, PRIMARY, place.access.now())
            else:
                key_registry.change_state(connection, row.id, PRIMARY)
            key_registry.sign(connection, key)
            record_change(connection, place.access, PROMOTED, key.fingerprint, V2)
            return Changed(key.fingerprint, V2, PRIMARY, changed=True)

        return place.write(unit)


def recover(settings: Settings, name: str) -> Changed:
    """Let a given key encrypt, where the primary one is lost or did not sign what is registered.

    Values of released versions are not accepted afterwards.

    Raises:
        TokenStorageError: ``bad-input`` if the key was not given; or as :func:`~.opened.opened`.
    """
    with opened(settings) as place:

        def unit(connection: Connection) -> Changed:
            key_registry.wait_for_writers(connection)
            key = given(place.keyring, name)
            for fingerprint in key_registry.recover(connection, key, place.access.now()):
                record_change(connection, place.access, "retire_key", fingerprint, FERNET)
            record_change(connection, place.access, PROMOTED, key.fingerprint, V2)
            return Changed(key.fingerprint, V2, PRIMARY, changed=True)

        return place.write(unit)


def _not_introduced(key: Key, place: Opened) -> TokenStorageError:
    return TokenStorageError(
        f"Key {key.fingerprint} is not introduced in {place.database}; nothing was changed.",
        code="bad-input",
        remedy="Introduce it, and give it to every server: nextcloud-mcp-server keys introduce "
        f"{key.fingerprint} {place.database.option}",
    )


def given(keyring: Keyring, name: str) -> Key:
    """Return the given key of this fingerprint.

    Raises:
        TokenStorageError: ``bad-input``.
    """
    if (key := keyring.get(name)) is not None:
        return key
    raise TokenStorageError(
        f"Key {name} was not given: the given keys are {' and '.join(keyring.fingerprints)}.",
        code="bad-input",
        remedy="Add it to TOKEN_ENCRYPTION_KEY or to the key file, here and for every server.",
    )


def _to_introduce(
    known: Sequence[RegisteredKey], place: Opened, name: str | None, kind: str
) -> Key:
    keyring = place.keyring
    if name is not None:
        return given(keyring, name)
    if kind == FERNET and len(keyring.keys) > 1:
        raise TokenStorageError(
            f"Several keys were given: {' and '.join(keyring.fingerprints)}.",
            code="bad-input",
            remedy="Name the key that the values were encrypted with: nextcloud-mcp-server keys "
            f"introduce FINGERPRINT --fernet {place.database.option}",
        )
    unknown = (key for key in keyring.keys if _row(known, key, kind) is None)
    return next(unknown, keyring.keys[0])


def _row(known: Sequence[RegisteredKey], key: Key, kind: str) -> RegisteredKey | None:
    return next((row for row in known if (row.kind, row.id) == (kind, name_of(key, kind))), None)


def record_change(
    connection: Connection, access: Access, event: str, fingerprint: str, kind: str
) -> None:
    """Record the change of a key in the audit log."""
    entry = {
        "timestamp": access.now(),
        "event": event,
        "user_id": SYSTEM,
        "resource_type": f"{kind}_key",
        "resource_id": fingerprint,
        "auth_method": None,
        "hostname": access.hostname,
    }
    record(connection, entry, access)
