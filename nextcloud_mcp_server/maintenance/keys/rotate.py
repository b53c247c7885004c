"""Encrypt every stored secret with the newest key, beside running servers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnClause, ColumnElement, Update, bindparam, column, table, update

from nextcloud_mcp_server.backends.base import Connection, Database, Pool, RegisteredKey
from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.concurrency import run_coroutine
from nextcloud_mcp_server.crypto.keyfile import Samples, find_keyring, verified_keyring
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.maintenance.keys.census import Census, take_census
from nextcloud_mcp_server.maintenance.keys.reader import Secret, reading
from nextcloud_mcp_server.migrate.at_head import open_at_head
from nextcloud_mcp_server.progress import ProgressCallback, Reporter, reporting, to_log
from nextcloud_mcp_server.settings import Settings

#: How often the tables are read again because a server stored secrets with an older key.
_PASSES: Final = 5


@dataclass(frozen=True, slots=True)
class Rotated:
    """How many secrets were encrypted again, by table, and a census afterwards."""

    rotated: Mapping[str, int]
    census: Census


class _Swap(NamedTuple):
    """One change: the row, the value that was read, and the one that replaces it."""

    at: Any
    old: bytes | str
    new: bytes | str


def rotate(settings: Settings, progress: ProgressCallback | None = None) -> Rotated:
    """Encrypt every secret with the newest key; servers can read and write meanwhile.

    Only the encrypted values are read and written, below every check of the other columns. A
    value that was stored meanwhile is never overwritten: each change compares the old value.
    What is done stays done after a kill, and the next rotation does the rest. A secret that no
    key opens is kept as it is. The default of ``progress`` is the log.

    Raises:
        TokenStorageError: ``key-missing``, ``malformed-key`` or ``wrong-key``, or as
            :func:`~nextcloud_mcp_server.migrate.at_head.open_at_head`.
    """
    place = connect(settings.database)
    place.check()
    keyring = find_keyring(settings, place.location)
    if keyring is None:
        raise TokenStorageError(
            f"No encryption key was given for {place}; nothing was changed.",
            code="key-missing",
            remedy="Set TOKEN_ENCRYPTION_KEY or TOKEN_ENCRYPTION_KEY_FILE: the newest key first, "
            "then every older one.",
        )

    def verify(samples: Samples, known: Sequence[RegisteredKey]) -> Sequence[str]:
        return verified_keyring(keyring, samples, place.location, known).fingerprints

    pool = open_at_head(place, verify=verify, lock_timeout=settings.lock_timeout)
    with reporting(progress or to_log(place)) as report:
        try:
            return _rotate(place, pool, keyring, report)
        finally:
            run_coroutine(pool.close())


def _rotate(place: Database, pool: Pool, keyring: Keyring, report: Reporter) -> Rotated:
    rotated: Counter[str] = Counter()
    for _ in range(_PASSES):
        changed = run_coroutine(_pass(place, pool, keyring, report))
        rotated.update(changed)
        census = take_census(place, keyring, report)
        # Without progress, another pass would find the same.
        if not census.older or not changed:
            break
    return Rotated(dict(rotated), census)


async def _pass(place: Database, pool: Pool, keyring: Keyring, report: Reporter) -> dict[str, int]:
    """Rotate every column once; return how many values were replaced, by table."""
    rotated: Counter[str] = Counter()
    with reading(place, place.inspect().structure) as reader:
        total, done = reader.total(), 0
        for name, secret in reader.columns:
            statement = _statement(name, secret, reader.row(name))
            for secrets in reader.pages(name, secret):
                done += len(secrets)
                if swaps := list(_swaps(secrets, keyring)):
                    rotated[name] += await pool.write(_unit(statement, swaps))
                report("encrypting with the newest key", min(done, total), total, "secrets")
                # Here Ctrl-C ends a pass that finds nothing to write.
                await asyncio.sleep(0)
    return {name: number for name, number in rotated.items() if number}


def _swaps(secrets: Iterable[Secret], keyring: Keyring) -> Iterable[_Swap]:
    """Yield a change for each secret of an older key; outside of a transaction, as it is slow."""
    newest = keyring.fingerprints[0]
    for at, _, old in secrets:
        # A TEXT with other bytes could not be compared.
        if keyring.key_of(old) in {None, newest} or (isinstance(old, str) and not old.isascii()):
            continue
        new = keyring.rotate(old)
        # A TEXT stays a TEXT: other programs may read it as one.
        yield _Swap(at, old, new if isinstance(old, bytes) else new.decode("ascii"))


def _unit(statement: Update, swaps: Sequence[_Swap]) -> Callable[[Connection], int]:
    def unit(connection: Connection) -> int:
        return sum(connection.run(statement, swap._asdict()) for swap in swaps)

    return unit


def _statement(name: str, secret: str, row: ColumnElement[Any]) -> Update:
    """Return the compare and swap of one value of the ``row``."""
    # Columns without a type: a value is bound as it was read, as TEXT or as BLOB.
    value: ColumnClause[bytes | str] = column(secret)
    return (
        update(table(name, value))
        .where(row == bindparam("at"), value == bindparam("old"))
        .values({secret: bindparam("new")})
    )
