"""Encrypt every stored secret with the primary key, beside running servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nextcloud_mcp_server.auth import key_registry
from nextcloud_mcp_server.auth.secrets import FERNET_COLUMNS
from nextcloud_mcp_server.backends.base import Connection
from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.concurrency import run_coroutine
from nextcloud_mcp_server.crypto.binding import binding, hashed
from nextcloud_mcp_server.crypto.key import Key
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import V2, given_primary
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.maintenance.keys.census import Census, needs_rotation, take_census
from nextcloud_mcp_server.maintenance.keys.compaction import compact_opened
from nextcloud_mcp_server.maintenance.keys.opened import Opened, opened
from nextcloud_mcp_server.maintenance.keys.promote import PROMOTED, record_change
from nextcloud_mcp_server.maintenance.keys.reader import Stored, reading
from nextcloud_mcp_server.maintenance.keys.swap import RowChange, rotate_row
from nextcloud_mcp_server.maintenance.keys.values import is_id, stored_text, values_of
from nextcloud_mcp_server.progress import ProgressCallback, Reporter, reporting, to_log
from nextcloud_mcp_server.schema.secrets import secrets_of
from nextcloud_mcp_server.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

#: The rows of one transaction. Each takes some statements, and nobody else can change any of them
#: meanwhile; on SQLite nobody can write at all.
_AT_ONCE: Final = 50

#: How often the tables are read again because a row was changed after it was read.
_PASSES: Final = 5


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation has done.

    Attributes:
        rotated: how many rows were written again, by table.
        census: a census afterwards.
        not_compacted: why the file may still hold values that its rows do not; empty if it
            does not, and on a server.
    """

    rotated: Mapping[str, int]
    census: Census
    not_compacted: str = ""


def rotate(settings: Settings, progress: ProgressCallback | None = None) -> Rotated:
    """Encrypt every secret with the primary key; servers can read and write meanwhile.

    Also encrypts what released versions have stored in plain text, and hashes their ids. A value
    that was stored meanwhile is never overwritten: each change compares what was read. Values that
    are not accepted are not made acceptable. What is done stays done after a kill, and the next
    rotation does the rest. A secret that no key opens is kept as it is. In the end a file is
    compacted, and writers wait for that. The default of ``progress`` is the log.

    Raises:
        TokenStorageError: ``key-missing``, ``malformed-key`` or ``wrong-key``, or as
            :func:`~nextcloud_mcp_server.migrate.at_head.open_at_head`.
    """
    with opened(settings) as place, reporting(progress or to_log(place.database)) as report:
        place.write(partial(_register_first, place))
        return _rotate(place, report)


def _register_first(place: Opened, connection: Connection) -> None:
    """Where no key is registered, register the given ones as the first secret does.

    Raises:
        TokenStorageError: ``wrong-key``; ``keys-changed``.
    """
    is_first = not key_registry.registered(connection)
    now, name = place.access.now(), str(place.database)
    key = key_registry.primary_key(connection, place.keyring, now, name)
    if is_first:
        record_change(connection, place.access, PROMOTED, key.fingerprint, V2)


def _rotate(place: Opened, report: Reporter) -> Rotated:
    rotated: Counter[str] = Counter()
    for _ in range(_PASSES):
        before = rotated.total()
        try:
            run_coroutine(_pass(place, rotated, report))
        except TokenStorageError as error:
            if rotated.total():
                raise _incomplete(error, rotated) from error
            raise
        census = take_census(place.database, place.keyring, report)
        # Without progress, another pass would find the same.
        if not any(census.pending.values()) or rotated.total() == before:
            break
    return Rotated(dict(+rotated), census, compact_opened(place, report))


def _incomplete(error: TokenStorageError, rotated: Counter[str]) -> TokenStorageError:
    """Return an error that says what was done before it."""
    done = f"Before that, {counted(rotated.total(), 'row')} had been encrypted, and stay so."
    return TokenStorageError(f"{error.message} {done}", code=error.code, remedy=error.remedy)


async def _pass(place: Opened, rotated: Counter[str], report: Reporter) -> None:
    """Rotate every table once; count in ``rotated`` how many rows were changed, by table."""
    with reading(place.database, place.database.inspect().structure) as reader:
        total, done = reader.total(), 0
        for name in reader.tables:
            where = reader.place(name)
            for page in reader.pages(name):
                for start in range(0, len(page), _AT_ONCE):
                    batch = page[start : start + _AT_ONCE]
                    rotated[name] += await _rotate_batch(place, name, where, batch)
                done += len(page)
                report("encrypting with the primary key", min(done, total), total, "rows")
                # Here Ctrl-C ends a pass that finds nothing to write.
                await asyncio.sleep(0)


async def _rotate_batch(
    place: Opened, name: str, where: ColumnElement[Any], batch: Sequence[Stored]
) -> int:
    changed = None
    while changed is None:
        known = await place.pool.read(key_registry.registered)
        key = given_primary(known, place.keyring, str(place.database))
        # Outside of a transaction, as it is slow.
        changes = [
            RowChange(name, where, stored.at, stored.row, new)
            for stored in batch
            if (new := _replacements(name, stored.row, place.keyring, known, key))
        ]
        if not changes:
            return 0
        changed = await place.pool.write(_unit(place, changes, known, key))
    return changed


def _replacements(
    table: str,
    row: Mapping[str, Any],
    keyring: Keyring,
    known: Sequence[RegisteredKey],
    key: Key,
) -> dict[str, Any]:
    """Return the columns of a row that are stored again, with their new values."""
    new: dict[str, Any] = {}
    if not all(map(_can_be_compared, row.values())):
        return new
    for value in values_of(table, row, keyring, known):
        if value.plaintext is None or not needs_rotation(value, key.id):
            continue
        if is_id(table, value.column):
            new[value.column] = str(hashed(stored_text(value.stored)))
        else:
            new[value.column] = _sealed(table, value.column, value.plaintext, row, key)
        if (table, value.column) == ("oauth_sessions", "state") and not row["encrypted_state"]:
            new["encrypted_state"] = _sealed(table, "encrypted_state", value.plaintext, row, key)
    return new


def _sealed(table: str, column: str, plaintext: bytes, row: Mapping[str, Any], key: Key) -> Any:
    secret = secrets_of(table)[column]
    ciphertext = key.seal(plaintext, binding(secret, row))
    # A TEXT stays a TEXT: other programs may read it as one.
    is_text = secret not in FERNET_COLUMNS or isinstance(row[column], str)
    return ciphertext.decode("ascii") if is_text else ciphertext


def _can_be_compared(value: Any) -> bool:
    """Return whether a value can be a parameter: a TEXT of other bytes than UTF-8 cannot."""
    if isinstance(value, str) and not value.isascii():
        with suppress(UnicodeEncodeError):
            value.encode("utf-8")
            return True
        return False
    return True


def _unit(
    place: Opened, changes: Sequence[RowChange], known: Sequence[RegisteredKey], key: Key
) -> Callable[[Connection], int | None]:
    def unit(connection: Connection) -> int | None:
        # What encrypts and what is accepted is read in the transaction that relies on it.
        if key_registry.registered(connection) != list(known):
            return None
        return sum(rotate_row(connection, place.access, change, key) for change in changes)

    return unit
