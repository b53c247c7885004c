"""Check the audit log, and the secrets that it names; the same on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError, counted
from nextcloud_mcp_server.maintenance.audit.verify import Verified, verify
from nextcloud_mcp_server.maintenance.doctor.context import Context
from nextcloud_mcp_server.maintenance.doctor.finding import Finding, Level
from nextcloud_mcp_server.settings import Settings

#: The most entries and the most secrets that are read: more would take too long here.
MOST: Final = 10_000


def audit(context: Context) -> Iterator[Finding]:
    """Check that nobody without the key has changed the log or a secret."""
    if context.intact is not None:
        yield from findings(context.settings, context.database.option)


def findings(settings: Settings, option: str) -> Iterator[Finding]:
    """Verify the newest entries and the first secrets; ``option`` names the database."""
    try:
        found = verify(settings, limit=MOST)
    except TokenStorageError as error:
        yield Finding(Level.UNKNOWN, f"it was not verified: {error.message}")
        return
    command = f"nextcloud-mcp-server db audit verify {option}"
    if number := found.wrong.number:
        are = "is" if number == 1 else "are"
        what = f"{_entries(number)} {are} forged or changed; to list them: {command}"
        yield Finding(Level.ERROR, what)
    if number := found.changed.number:
        what = f"{counted(number, 'secret')} exchanged, rolled back or forged"
        yield Finding(Level.ERROR, f"{what}; to list them: {command}")
    if number := found.unknown_keys.total():
        keys = " and ".join(found.unknown_keys)
        what = f"{_entries(number)} of key {keys}, which was not given: they cannot be verified"
        yield Finding(Level.NOTE, what)
    if found.is_right:
        yield Finding(Level.OK, _right(found, command))


def _right(found: Verified, command: str) -> str:
    if not found.exists:
        return "there is none yet"
    what = f"{_entries(found.right)} and {counted(found.matching, 'secret')} are right"
    if number := found.unsigned:
        what = (
            f"{what}; {_entries(number)} without a code, as before the first secret and before "
            "revision 103"
        )
    if number := found.unnamed:
        what = (
            f"{what}; {counted(number, 'secret')} without an entry, as of released versions and "
            "of running sign-ins"
        )
    return what if found.complete else f"{what}; the rest was not read: {command}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"
