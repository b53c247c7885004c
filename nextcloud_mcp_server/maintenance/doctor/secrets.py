"""Checks of the secrets: how many need which key, and how they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nextcloud_mcp_server.backends.sqlite.catalog import Execute
from nextcloud_mcp_server.crypto.keyfile import find_keyring, key_path
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.maintenance.doctor.context import Contents, Context
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.maintenance.doctor.registered import given, registered, secrets_there
from nextcloud_mcp_server.maintenance.keys.census import take_census
from nextcloud_mcp_server.progress import silent
from nextcloud_mcp_server.schema.structure import ENCRYPTED, columns_there, quoted

#: Every Fernet token begins with gAAAA, and every text of the second format with v2., whatever
#: the text encoding of the database.
_NOT_ENCRYPTED: Final = (
    "CASE typeof({0}) WHEN 'null' THEN 0 "
    "WHEN 'blob' THEN substr({0}, 1, 5) <> x'6741414141' AND substr({0}, 1, 3) <> x'76322e' "
    "ELSE substr({0}, 1, 5) <> 'gAAAA' AND substr({0}, 1, 3) <> 'v2.' END"
)


def keys(context: Context) -> Iterator[Finding]:
    """Check how many secrets need each key, and how many no given key opens."""
    try:
        ring = find_keyring(context.settings, context.path)
    except TokenStorageError as error:
        yield Finding(Level.ERROR, f"{error.message} {error.remedy}")
        return
    file = context.settings.key_file or key_path(context.path)
    if not context.settings.keys and file.exists() and file.parent == context.path.parent:
        what = (
            f"{file.name} lies beside the tokens: a copy of the folder has both; move it to a "
            "folder DIR that is not copied with it, and set the variable for the server"
        )
        name = for_shell(file.name)
        command = f"mv {for_shell(file)} DIR/ && export TOKEN_ENCRYPTION_KEY_FILE=DIR/{name}"
        yield Finding(Level.WARNING, what, command)
    if reason := context.rows_unread:
        known = "whether a key is missing"
        if ring is not None:
            known = f"what needs key {' or '.join(ring.fingerprints)}"
        yield Finding(Level.UNKNOWN, f"{known} is unknown: {reason}")
        return
    if not context.is_ours:
        return
    # A state that a start refuses is another check's finding.
    census = take_census(context.database, ring, silent, usable=False)
    if ring is None:
        yield _no_key(secrets_there(census), context.closed)
        return
    known_keys = context.database.inspect(samples=True).keys
    yield from given(census, known_keys, ring)
    if context.tables is not None:
        yield from registered(census, known_keys, ring, context.database.option)


def _no_key(secrets: int, closed: str) -> Finding:
    if not secrets:
        what = "there is no key and no secret yet"
        return Finding(Level.NOTE, what if closed else f"{what}; a start makes a key")
    what = f"it holds {counted(secrets, 'secret')}, and no key was given"
    command = "set TOKEN_ENCRYPTION_KEY to the key that encrypted them"
    return Finding(Level.ERROR, what, command)


def formats(context: Context) -> Iterator[Finding]:
    """Check that every secret is in a format that the store writes or has written."""
    contents = context.intact
    if contents is None:
        return
    with contents.reader() as connection:
        found = [Finding(*finding) for finding in _formats(connection.execute, contents)]
    yield from found or [Finding(Level.OK, "every secret is stored as the store does")]


def _formats(execute: Execute, contents: Contents) -> Iterator[tuple[Level, str]]:
    for table, column in columns_there(contents.seen.structure, ENCRYPTED):
        where = _NOT_ENCRYPTED.format(quoted(column))
        if number := _count(execute, table, where):
            what = f"{table}.{column} holds {counted(number, 'value')} that no key has encrypted"
            yield Level.WARNING, what
        if number := _count(execute, table, f"typeof({quoted(column)}) = 'text'"):
            what = f"{table}.{column} holds {counted(number, 'secret')} as TEXT (harmless)"
            yield Level.NOTE, what


def _count(execute: Execute, table: str, where: str) -> int:
    query = f"SELECT count(*) FROM {quoted(table)} NOT INDEXED WHERE {where}"  # noqa: S608
    [(number,)] = execute(query)
    return int(number)
