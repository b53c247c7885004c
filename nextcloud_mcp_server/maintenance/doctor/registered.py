"""Findings about the registered keys, and about what they protect, on each engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from nextcloud_mcp_server.backends.keys import RegisteredKey
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.crypto.registration import (
    FERNET,
    INTRODUCED,
    PRIMARY,
    RETIRED,
    given_primary,
)
from nextcloud_mcp_server.errors import TokenStorageError, counted, printable
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.keys.census import Census, primary_id
from nextcloud_mcp_server.maintenance.keys.values import NO_KEY

#: The most rows that a finding names.
_NAMED: Final = 3


def secrets_there(census: Census) -> int:
    """Return the number of secrets that need a key, whether it was given or not."""
    return sum(_by_key(census).values()) + _closed(census).total()


def given(census: Census, known: Sequence[RegisteredKey], keyring: Keyring) -> Iterator[Finding]:
    """Report how many secrets need each given key, and how many need another one.

    A text of the second format names its key; :func:`registered` reports those that the key does
    not open, because they were changed or are of another row.

    Args:
        census: of the database.
        known: the registered keys.
        keyring: the given keys.
    """
    number_of, closed, there = _by_key(census), _closed(census), secrets_there(census)
    total = counted(there, "secret")
    primary = primary_id(known, keyring)
    states = {row.id: row.state for row in known}
    for key in keyring.keys:
        number = number_of[key.fingerprint]
        what = f"key {key.fingerprint} is needed for {number} of {total}"
        state = states.get(key.id)
        if key.id == primary:
            yield Finding(Level.OK, f"{what}, and encrypts new ones")
        elif state == INTRODUCED:
            yield Finding(Level.OK, f"{what}: it is introduced, and not promoted yet")
        elif number:
            yield Finding(Level.OK, what)
        else:
            how = (
                "no longer needed here" if state else "no longer needed here, or not introduced yet"
            )
            yield Finding(Level.NOTE, f"{what}: it is {how}")
    if closed:
        where = ", ".join(f"{number} in {table}" for table, number in sorted(closed.items()))
        level = Level.ERROR if closed.total() == there else Level.WARNING
        what = f"no given key opens {closed.total()} of {total} ({where})"
        yield Finding(level, what, "add the key that encrypted them to TOKEN_ENCRYPTION_KEY")


def registered(
    census: Census, known: Sequence[RegisteredKey], keyring: Keyring, option: str
) -> Iterator[Finding]:
    """Check the table of keys, and which values are not protected by them.

    Args:
        census: of the database.
        known: its registered keys.
        keyring: the given keys.
        option: how a command names the database.
    """
    program = "nextcloud-mcp-server keys"
    if known:
        yield from _states(known, keyring, f"{program} promote FINGERPRINT --recover {option}")
    for (table, column), number in census.plain.items():
        what = f"{table}.{column} holds {counted(number, 'value')} in plain text"
        yield Finding(Level.NOTE, what, f"{program} rotate {option}")
    accepting = [row.fingerprint for row in known if row.kind == FERNET and row.state != RETIRED]
    if accepting:
        what = (
            f"values of older versions are accepted (key {' and '.join(accepting)}): a text from "
            "an old backup that is put back opens"
        )
        commands = (f"{program} retire {one} --fernet {option}" for one in accepting)
        fix = " && ".join([f"{program} rotate {option}", *commands])
        if census.unopened:
            fix = f"first see to the values that are not opened (keys list {option}), then {fix}"
        yield Finding(Level.NOTE, what, fix)
    reasons: dict[str, list[str]] = {}
    for value in census.unopened:
        if value.reason != NO_KEY:
            name = f"{value.table}.{value.column} of {printable(repr(value.row))}"
            reasons.setdefault(value.reason, []).append(name)
    for reason, names in reasons.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        what = f"{counted(len(names), 'secret')}: {reason} ({', '.join(names[:_NAMED])}{more})"
        yield Finding(Level.WARNING, what, "delete the row, or restore it from a backup")


def _by_key(census: Census) -> Counter[str]:
    """Return the number of secrets that need each given key, by fingerprint."""
    found: Counter[str] = Counter()
    for key in census.keys:
        if key.given:
            found[key.fingerprint] += sum(census.by_table(key).values())
    return found


def _closed(census: Census) -> Counter[str]:
    """Return the number of secrets that need a key which was not given, by table."""
    return Counter(value.table for value in census.unopened if value.reason == NO_KEY)


def _states(known: Sequence[RegisteredKey], keyring: Keyring, recover: str) -> Iterator[Finding]:
    try:
        given_primary(known, keyring)
    except TokenStorageError as error:
        if error.code == "wrong-key":
            name = " and ".join(row.fingerprint for row in known if row.state == PRIMARY)
            what = f"key {name}, which encrypts, was not given: no server starts"
            yield Finding(Level.ERROR, what, "add it to TOKEN_ENCRYPTION_KEY")
        else:
            what = "the table keys is not what the key that encrypts has signed: no server starts"
            yield Finding(Level.ERROR, what, f"restore a backup, or {recover}")
    states = ", ".join(f"{row.fingerprint} ({row.kind}) {row.state}" for row in known)
    yield Finding(Level.OK, f"registered: {states}")
