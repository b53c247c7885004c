"""Register a key on a database, and let it encrypt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.auth.audit import SYSTEM, record
from nextcloud_mcp_server.auth.context import Access
from nextcloud_mcp_server.backends.base import Connection, RegisteredKey
from nextcloud_mcp_server.crypto.key import Key
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import (
    FERNET,
    FORMER,
    INTRODUCED,
    PRIMARY,
    RETIRED,
    V2,
    accepted,
    given_primary,
    is_checked,
    keys_changed,
)
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.opened import Opened, opened
from nextcloud_mcp_server.settings import Settings


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
            is meant; ``wrong-key`` if no given key opens what is stored in a database without a
            registered key, or with ``fernet`` if the primary key was not given; ``keys-changed``;
            or as :func:`~.opened.opened`.
    """
    kind, state = (FERNET, FORMER) if fernet else (V2, INTRODUCED)
    with opened(settings) as place:

        def unit(connection: Connection) -> Changed:
            now = place.access.now()
            if not key_registry.registered(connection):
                first = key_registry.key_in_use(connection, place.keyring)
                key_registry.adopt(connection, place.keyring, first, now)
                only = name is None and first is place.keyring.keys[0]
                if (only and not fernet) or name == first.fingerprint:
                    return Changed(first.fingerprint, V2, PRIMARY, changed=True)
            key_registry.wait_for_registrations(connection)
            known = key_registry.registered(connection)
            key = _to_introduce(known, place.keyring, name, kind)
            row = _row(known, key, kind)
            if row is not None and row.state != RETIRED:
                return Changed(key.fingerprint, kind, row.state, changed=False)
            # What is accepted is signed by the primary key.
            primary = given_primary(known, place.keyring, str(place.database)) if fernet else None
            if row is None:
                key_registry.register(connection, key, kind, state, now)
            else:
                key_registry.change_state(connection, row.id, state)
            if primary is not None:
                key_registry.sign(connection, primary)
            record_change(connection, place.access, "introduce_key", key.fingerprint, kind)
            return Changed(key.fingerprint, kind, state, changed=True)

        return place.write(unit)


def promote(settings: Settings, name: str) -> Changed:
    """Let a key encrypt from now on; the one that did so opens only.

    Waits for every transaction that stores a secret. Each later one encrypts with this key.

    Raises:
        TokenStorageError: ``bad-input`` if the key is not registered or was not given;
            ``keys-changed``; or as :func:`~.opened.opened`.
    """
    with opened(settings) as place:

        def unit(connection: Connection) -> Changed:
            key_registry.wait_for_writers(connection)
            known = key_registry.registered(connection)
            key = given(place.keyring, name)
            row = _row(known, key, V2)
            if row is None or row.state == RETIRED:
                raise TokenStorageError(
                    f"Key {key.fingerprint} is not introduced in {place.database}; nothing was "
                    "changed.",
                    code="bad-input",
                    remedy="Introduce it, and give it to every server: nextcloud-mcp-server keys "
                    f"introduce {key.fingerprint} {place.database.option}",
                )
            former = [one for one in known if one.state == PRIMARY and one.id != row.id]
            is_signed = is_checked(row._replace(state=PRIMARY), key, accepted(known))
            if is_signed and row.state == PRIMARY and not former:
                return Changed(key.fingerprint, V2, PRIMARY, changed=False)
            # It has signed that it is the primary key: somebody has changed the states since.
            if not is_signed:
                _require_unchanged(known, row, former, place)
            for one in former:
                key_registry.end_primary(connection, one.id, place.keyring.get(one.id))
            key_registry.change_state(connection, row.id, PRIMARY)
            key_registry.sign(connection, key)
            record_change(connection, place.access, "promote_key", key.fingerprint, V2)
            return Changed(key.fingerprint, V2, PRIMARY, changed=True)

        return place.write(unit)


def _require_unchanged(
    known: Sequence[RegisteredKey],
    row: RegisteredKey,
    former: Sequence[RegisteredKey],
    place: Opened,
) -> None:
    """Check the row that is promoted, and what each given primary key has signed.

    One that is lost cannot be asked: then what is registered is signed by the promoted one.
    """
    for one in (row, *former):
        key = place.keyring.get(one.id)
        if key is not None and not is_checked(one, key, accepted(known)):
            raise keys_changed(key, str(place.database))


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
    known: Sequence[RegisteredKey], keyring: Keyring, name: str | None, kind: str
) -> Key:
    if name is not None:
        return given(keyring, name)
    if kind == FERNET and len(keyring.keys) > 1:
        raise TokenStorageError(
            f"Several keys were given: {' and '.join(keyring.fingerprints)}.",
            code="bad-input",
            remedy="Name the key that the values were encrypted with: nextcloud-mcp-server keys "
            "introduce FINGERPRINT --fernet",
        )
    unknown = (key for key in keyring.keys if _row(known, key, kind) is None)
    return next(unknown, keyring.keys[0])


def _row(known: Sequence[RegisteredKey], key: Key, kind: str) -> RegisteredKey | None:
    name = key.id if kind == V2 else key.fingerprint
    return next((row for row in known if (row.kind, row.id) == (kind, name)), None)


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
