"""Retire a key, after proving that no stored value needs it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select, func, select

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.auth.secrets import FERNET_COLUMNS
from nextcloud_mcp_server.auth.statements import ciphertext, has_key, is_old, key_prefixes
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import FERNET, PRIMARY, RETIRED, V2, given_primary
from nextcloud_mcp_server.errors import TokenStorageError, counted, printable
from nextcloud_mcp_server.maintenance.keys.census import take_census
from nextcloud_mcp_server.maintenance.keys.opened import Opened, opened
from nextcloud_mcp_server.maintenance.keys.promote import Changed, record_change
from nextcloud_mcp_server.maintenance.keys.values import CHANGED
from nextcloud_mcp_server.progress import silent
from nextcloud_mcp_server.schema.secrets import HASHED, SECRETS
from nextcloud_mcp_server.schema.tables import metadata
from nextcloud_mcp_server.settings import Settings

#: The most rows that a refusal names.
_NAMED: Final = 3

_COLUMNS: Final = [metadata.tables[secret.table].c[secret.column] for secret in SECRETS]
_IDS: Final = [metadata.tables[table].c[name] for table, name in HASHED]

#: Count the texts of a v2 key, and the values of old formats, by table.
_OF_KEY: Final[Sequence[tuple[str, Select[Any]]]] = [
    (c.table.name, select(func.count()).select_from(c.table).where(has_key(c))) for c in _COLUMNS
]
_IN_PLAIN: Final = [
    of_key for secret, of_key in zip(SECRETS, _OF_KEY, strict=True) if secret not in FERNET_COLUMNS
]
_OLD: Final[Sequence[tuple[str, Select[Any]]]] = [
    (c.table.name, select(func.count()).select_from(c.table).where(is_old(c)))
    for c in (*_COLUMNS, *_IDS)
]
_FERNET_TEXTS: Final[Sequence[tuple[str, Select[Any]]]] = [
    (secret.table, select(ciphertext(column)).where(is_old(column)))
    for secret, column in zip(SECRETS, _COLUMNS, strict=True)
    if secret in FERNET_COLUMNS
]


def retire(settings: Settings, name: str, *, fernet: bool = False) -> Changed:
    """Retire a key that no stored value needs; it need not be given, but the primary key must.

    The last key for values of released versions is retired only if there is no such value at all;
    from then on none is accepted.

    Args:
        settings: name the database and the keys.
        name: the fingerprint of a registered key. If it is registered for both formats and
            encrypts, that for values of released versions is retired.
        fernet: retire it for values of released versions.

    Raises:
        TokenStorageError: ``bad-input`` if it is not registered or is the primary key;
            ``key-needed`` if a value needs it; ``wrong-key`` if the primary key was not given;
            ``keys-changed``; or as :func:`~.opened.opened`.
    """
    with opened(settings) as place:

        def unit(connection: Connection) -> Changed | tuple[RegisteredKey, Counter[str]]:
            # Once before others have to wait for it.
            for prepare in (lambda _: None, key_registry.wait_for_writers):
                prepare(connection)
                known = key_registry.registered(connection)
                row = _chosen(known, name, place, fernet=fernet)
                primary = given_primary(known, place.keyring, str(place.database))
                if row.state == RETIRED:
                    return Changed(row.fingerprint, row.kind, RETIRED, changed=False)
                if needed := _needed(connection, row, place.keyring):
                    return row, needed
            key_registry.change_state(connection, row.id, RETIRED)
            key_registry.sign(connection, primary)
            record_change(connection, place.access, "retire_key", row.fingerprint, row.kind)
            return Changed(row.fingerprint, row.kind, RETIRED, changed=True)

        done = place.write(unit)
        if isinstance(done, Changed):
            return done
        raise _key_needed(place, *done)


def _chosen(
    known: Sequence[RegisteredKey], name: str, place: Opened, *, fernet: bool
) -> RegisteredKey:
    """Return the row of a key that is meant."""
    rows = {row.kind: row for row in known if name in {row.fingerprint, row.id}}
    old, new = rows.get(FERNET), rows.get(V2)
    if fernet:
        new = None
    if old is not None and new is not None:
        if old.state != RETIRED and new.state not in {PRIMARY, RETIRED}:
            raise TokenStorageError(
                f"Key {name} is registered for v2 and for fernet in {place.database}; nothing was "
                "changed.",
                code="bad-input",
                remedy=f"Retire it for fernet first: nextcloud-mcp-server keys retire {name} "
                f"--fernet {place.database.option} - then run this command again.",
            )
        new = None if old.state != RETIRED else new
    chosen = new or old
    if chosen is None:
        raise TokenStorageError(
            f"No key {name} is registered{' for fernet' if fernet else ''} in {place.database}.",
            code="bad-input",
            remedy=f"List the keys: nextcloud-mcp-server keys list {place.database.option}",
        )
    if chosen.state == PRIMARY:
        raise TokenStorageError(
            f"Key {name} encrypts in {place.database}, so it cannot be retired.",
            code="bad-input",
            remedy="Promote another key first: nextcloud-mcp-server keys promote FINGERPRINT "
            f"{place.database.option}",
        )
    return chosen


def _needed(connection: Connection, row: RegisteredKey, keyring: Keyring) -> Counter[str]:
    """Return the number of values that need a key, by table."""
    if row.kind == V2:
        return _counts(connection, _OF_KEY, key_prefixes(row.id))
    known = key_registry.registered(connection)
    others = [one for one in known if one.kind == FERNET and one.id != row.id]
    if all(one.state == RETIRED for one in others):
        old = _counts(connection, _OLD)
        for key in known:
            if key.kind == V2:
                old.subtract(_counts(connection, _IN_PLAIN, key_prefixes(key.id)))
        return +old
    needed: Counter[str] = Counter()
    given = keyring.get(row.fingerprint) is not None
    for table, statement in _FERNET_TEXTS:
        for [value] in connection.all(statement):
            # Without the key, it may be the one that opens what no other does.
            if keyring.key_of(value) == (row.fingerprint if given else None):
                needed[table] += 1
    return needed


def _counts(
    connection: Connection,
    statements: Sequence[tuple[str, Select[Any]]],
    parameters: Mapping[str, Any] | None = None,
) -> Counter[str]:
    found: Counter[str] = Counter()
    for table, statement in statements:
        [[number]] = connection.all(statement, parameters)
        found[table] += number
    return +found


def _key_needed(place: Opened, row: RegisteredKey, needed: Counter[str]) -> TokenStorageError:
    where = ", ".join(f"{number} in {table}" for table, number in sorted(needed.items()))
    name, total = row.fingerprint, counted(needed.total(), "value")
    if row.kind == FERNET:
        message = (
            f"Key {name} was not retired for older versions, because of {total} of "
            f"{place.database} in their format ({where})."
        )
    else:
        message = (
            f"Key {name} is still needed for {total} of {place.database} ({where}); it was not "
            "retired."
        )
    remedies = list(_remedies(place, row, needed))
    return TokenStorageError(
        message, code="key-needed", remedy=" - and ".join(remedies) or "Run the command again."
    )


def _remedies(place: Opened, row: RegisteredKey, needed: Counter[str]) -> Iterator[str]:
    rotate = f"encrypt them again: nextcloud-mcp-server keys rotate {place.database.option}"
    if place.keyring.get(row.fingerprint) is None:
        yield f"Add key {row.fingerprint} to TOKEN_ENCRYPTION_KEY, and {rotate}"
        yield "if that key is lost, delete the rows that keys list names"
        return
    census = take_census(place.database, place.keyring, silent)
    if any(census.pending.values()):
        yield rotate[0].upper() + rotate[1:]
    # A text of the second format that was changed needs no key of released versions.
    is_old = row.kind == FERNET
    kept = [
        one for one in census.unopened if one.table in needed and (one.reason != CHANGED) == is_old
    ]
    if kept:
        rows = dict.fromkeys(f"{one.table} of {printable(repr(one.row))}" for one in kept)
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        yield (
            "add the key that opens the values which keys list names, or delete their rows: "
            f"{', '.join(list(rows)[:_NAMED])}{more}"
        )
