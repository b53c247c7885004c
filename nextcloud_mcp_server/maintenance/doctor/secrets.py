"""Checks of the secrets: which key opens how many, and whether all are stored as they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from nextcloud_mcp_server.backends.sqlite.catalog import Execute, quoted
from nextcloud_mcp_server.crypto.keyfile import find_keyring, key_path
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.subject import Opened, Subject
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.schema.structure import ENCRYPTED

#: Every Fernet token begins with gAAAA, whatever the encoding of the database's texts.
_UNSEALED: Final = (
    "CASE typeof({0}) WHEN 'null' THEN 0 WHEN 'blob' THEN substr({0}, 1, 5) <> x'6741414141' "
    "ELSE substr({0}, 1, 5) <> 'gAAAA' END"
)

#: Columns that every release has stored as plain text.
_PLAIN: Final = (("oauth_sessions", "idp_access_token"), ("oauth_sessions", "idp_refresh_token"))


def keys(subject: Subject) -> Iterator[Finding]:
    """Which key opens how many secrets, and how many open with none."""
    name = "keys"
    try:
        ring = find_keyring(subject.settings, subject.path)
    except TokenStorageError as error:
        yield Finding(name, Level.ERROR, f"{error.message} {error.remedy}")
        return
    file = subject.settings.key_file or key_path(subject.path)
    if not subject.settings.keys and file.exists() and file.parent == subject.path.parent:
        what = f"{file.name} lies beside the tokens, and whoever copies both can read them"
        yield Finding(name, Level.WARNING, what, "move it, and name it: TOKEN_ENCRYPTION_KEY_FILE")
    if subject.unread:
        yield Finding(name, Level.UNKNOWN, f"{_at_hand(ring)}: {subject.unread}")
        return
    if subject.opened is not None and subject.opened.finding.state is State.FOREIGN:
        return
    secrets = _secrets(subject.opened)
    if ring is None:
        yield _no_key(name, len(secrets), subject.closed)
        return
    opened = Counter(ring.key_of(value) for _, value in secrets)
    for place, fingerprint in enumerate(ring.fingerprints):
        what = f"key {fingerprint} opens {opened[fingerprint]} of {counted(len(secrets), 'secret')}"
        if place == 0:
            yield Finding(name, Level.OK, f"{what}, and seals new ones")
        elif opened[fingerprint]:
            yield Finding(name, Level.OK, what)
        else:
            yield Finding(name, Level.NOTE, f"{what}: it is not needed here any more")
    if opened[None]:
        tables = Counter(table for table, value in secrets if ring.key_of(value) is None)
        where = ", ".join(f"{number} in {table}" for table, number in sorted(tables.items()))
        level = Level.ERROR if opened[None] == len(secrets) else Level.WARNING
        what = f"{opened[None]} of {counted(len(secrets), 'secret')} cannot be opened ({where})"
        yield Finding(name, level, what, "add the key that sealed them to TOKEN_ENCRYPTION_KEY")


def _at_hand(ring: Keyring | None) -> str:
    if ring is None:
        return "no key was given, and whether there are secrets is unknown"
    fingerprints = " and ".join(ring.fingerprints)
    return f"what key {fingerprints} opens is unknown"


def _no_key(name: str, secrets: int, closed: str) -> Finding:
    if not secrets:
        what = "there is no key and no secret yet"
        return Finding(name, Level.NOTE, what if closed else f"{what}; a start makes a key")
    what = f"it holds {counted(secrets, 'secret')}, and no key was given"
    return Finding(name, Level.ERROR, what, "set TOKEN_ENCRYPTION_KEY to the key that sealed them")


def _secrets(opened: Opened | None) -> Sequence[tuple[str, bytes | str]]:
    if opened is None or not opened.readable:
        return ()
    with opened.reader() as connection:
        return [
            (table, value if isinstance(value, bytes) else str(value))
            for table, column in _there(opened, ENCRYPTED)
            for (value,) in connection.execute(
                f"SELECT {quoted(column)} FROM {quoted(table)} "  # noqa: S608 - our own names
                f"WHERE {quoted(column)} IS NOT NULL"
            )
        ]


def _there(opened: Opened, columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    tables = opened.seen.structure.tables
    return [(t, c) for t, c in columns if t in tables and c in tables[t].columns]


def formats(subject: Subject) -> Iterator[Finding]:
    """Whether secrets are stored as every release stored them, and what is stored in plain."""
    name, opened = "format", subject.opened
    if opened is None or not opened.readable or opened.finding.state is State.FOREIGN:
        return
    found = False
    with opened.reader() as connection:
        for table, column in _there(opened, ENCRYPTED):
            test = _UNSEALED.format(quoted(column))
            if number := _count(connection.execute, table, test):
                found = True
                what = f"{table}.{column} holds {counted(number, 'value')} that no key has sealed"
                yield Finding(name, Level.WARNING, what)
            if number := _count(connection.execute, table, f"typeof({quoted(column)}) = 'text'"):
                found = True
                what = f"{table}.{column} holds {counted(number, 'secret')} as TEXT"
                yield Finding(name, Level.NOTE, what)
        for table, column in _there(opened, _PLAIN):
            if number := _count(connection.execute, table, f"{quoted(column)} <> ''"):
                found = True
                what = f"{table}.{column} holds {counted(number, 'value')} in plain text"
                yield Finding(name, Level.NOTE, what)
    if not found:
        yield Finding(name, Level.OK, "every secret is stored as every release stored it")


def _count(execute: Execute, table: str, where: str) -> int:
    query = f"SELECT count(*) FROM {quoted(table)} WHERE {where}"  # noqa: S608 - our own names
    [(number,)] = execute(query)
    return int(number)
