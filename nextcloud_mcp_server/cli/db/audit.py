"""``db audit list`` and ``db audit verify``: read the audit log; change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.db.log import shown_time
from nextcloud_mcp_server.cli.options import WholeNumber, database_options, not_empty, since_option
from nextcloud_mcp_server.cli.output import Output, table
from nextcloud_mcp_server.errors import TokenStorageError, counted, printable

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring
    from nextcloud_mcp_server.maintenance.audit.listing import Listed
    from nextcloud_mcp_server.maintenance.audit.verify import Changed, Problems, Verified
    from nextcloud_mcp_server.settings import Settings

_HEADINGS: Final = ("when", "event", "user", "resource", "host", "code")

#: The most entries that one call lists, and the most problems of a kind on a terminal.
_MOST: Final = 10_000
_SHOWN: Final = 20


@click.group()
def audit() -> None:
    """List the audit log, or verify it and the secrets that it names.

    Each change of a secret has an entry with the hash of what was stored, and with a code that
    only the encryption key can make.
    """


@audit.command("list")
@database_options
@click.option("--user", metavar="ID", callback=not_empty, help="Only those of this user.")
@since_option
@click.option(
    "-n",
    "--limit",
    type=WholeNumber(1, _MOST),
    metavar="N",
    default=100,
    show_default=True,
    help="Show only the newest N.",
)
def list_entries(
    output: Output, option: DatabaseOption, *, user: str | None, since: int, limit: int
) -> None:
    """List the entries of the audit log, newest first.

    For each: the time in UTC, the event, the user, the resource, the host, and whether its code
    is right, unsigned (from before the first secret, or of `db prune` without a key), wrong (it
    was forged or changed), or of a key that was not given. Changes nothing, and works beside
    servers, in any state of the database, and without a key.
    """
    from nextcloud_mcp_server.maintenance.audit import listing

    settings = option.settings(output)
    keyring = _keyring(output, settings)
    found = listing.list_entries(settings, keyring, user_id=user, since=since, limit=limit)
    place = str(settings.database)
    document = {
        "database": place,
        "exists": found.exists,
        "log": found.has_log,
        "entries": [_entry_facts(one) for one in found.entries],
    }
    if found.entries:
        output.result(document, *table([_HEADINGS, *map(_row, found.entries)]))
        return
    none = "has no such entry" if found.has_log else "has no audit log yet"
    output.result(document, f"{printable(place)} {none if found.exists else 'does not exist yet'}")


def _keyring(output: Output, settings: Settings) -> Keyring | None:
    from nextcloud_mcp_server.crypto.keyfile import available_keyring

    try:
        return available_keyring(settings)
    except TokenStorageError as error:
        output.note(f"warning: no code is checked: {printable(error.message)}")
        return None


def _row(one: Listed) -> tuple[str, ...]:
    entry = one.entry
    resource = " ".join(_text(part) for part in (entry.resource_type, entry.resource_id) if part)
    return (
        shown_time(entry.timestamp),
        _text(entry.event),
        _text(entry.user_id),
        resource or "-",
        "-" if entry.hostname is None else _text(entry.hostname),
        f"key {one.key} not given" if one.code == "unknown" else one.code.value,
    )


def _text(value: object) -> str:
    """Return a value of a row that anybody may have written."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _entry_facts(one: Listed) -> dict[str, Any]:
    entry = one.entry
    names = ("event", "user_id", "resource_type", "resource_id", "auth_method", "hostname")
    values = {name: getattr(entry, name) for name in names}
    return {
        "id": entry.id,
        "time": shown_time(entry.timestamp).replace(" ", "T"),
        "timestamp": entry.timestamp,
        **{name: None if value is None else _text(value) for name, value in values.items()},
        "code": one.code.value,
        "key": one.key or None,
    }


@audit.command("verify")
@database_options
def verify_log(output: Output, option: DatabaseOption) -> int:
    """Verify the audit log, and every secret against its newest entry.

    Lists the entries that were forged or changed, and the secrets that differ from what their
    newest entry says: they were exchanged, put back to an older state, or forged. Counts what
    cannot be verified: entries without a code or of a key that was not given, and secrets that
    no entry names. Exits 1 if something is wrong. Changes nothing, and works beside servers.

    It does not find a state that was put back together with the whole log of that time, as a
    backup has it, or whose later entries were deleted.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.audit.verify import verify

    settings = option.settings(output)
    with phases(output) as report:
        found = verify(settings, report)
    output.result(_facts(found), *_lines(found))
    return 0 if found.is_right else 1


def _facts(found: Verified) -> dict[str, Any]:
    return {
        "database": str(found.database),
        "exists": found.exists,
        "right": found.is_right,
        "keys": list(found.keys),
        "entries": {
            "right": found.right,
            "unsigned": found.unsigned,
            "unsigned_later": found.unsigned_later,
            "unknown_keys": dict(found.unknown_keys),
            "wrong": found.wrong.number,
        },
        "secrets": {
            "matching": found.matching,
            "unnamed": found.unnamed,
            "unverified": found.unverified,
            "changed": found.changed.number,
        },
        "wrong": [_entry_facts(one) for one in found.wrong.first],
        "changed": [one._asdict() for one in found.changed.first],
    }


def _lines(found: Verified) -> Iterator[str]:
    place = printable(str(found.database))
    if not found.exists:
        yield f"{place} has no audit log yet"
        return
    later = f", {found.unsigned_later} of them later" if found.unsigned_later else ""
    entries = [
        f"{found.right} right",
        *([f"{found.unsigned} unsigned{later}"] if found.unsigned else []),
        *(f"{number} of key {key}, not given" for key, number in found.unknown_keys.items()),
        *([f"{found.wrong.number} wrong"] if found.wrong.number else []),
    ]
    secrets = [
        f"{found.matching} as their entries say",
        *([f"{found.unnamed} without an entry"] if found.unnamed else []),
        *([f"{found.unverified} not verified"] if found.unverified else []),
        *([f"{found.changed.number} changed"] if found.changed.number else []),
    ]
    yield f"{counted(found.entries, 'entry')}: {', '.join(entries)}".replace("entrys", "entries")
    yield f"{counted(found.secrets, 'secret')}: {', '.join(secrets)}"
    yield from _wrong_lines(found.wrong)
    yield from _changed_lines(found.changed)
    yield f"{place}: {'nothing is wrong' if found.is_right else 'it was changed by others'}"


def _wrong_lines(wrong: Problems[Listed]) -> Iterator[str]:
    if wrong.number:
        yield "forged or changed entries:"
        for one in wrong.first[:_SHOWN]:
            when, event, user, *_ = _row(one)
            yield f"  {printable(f'entry {one.entry.id} ({when}): {event} of {user!r}')}"
        yield from _more(wrong.number)


def _changed_lines(changed: Problems[Changed]) -> Iterator[str]:
    if changed.number:
        yield "exchanged, rolled back or forged secrets:"
        for one in changed.first[:_SHOWN]:
            yield f"  {printable(f'{one.table}.{one.column} of {one.row!r}: {one.reason}')}"
        yield from _more(changed.number)


def _more(number: int) -> Iterator[str]:
    if number > _SHOWN:
        yield f"  and {number - _SHOWN} more (--json has up to 1000)"
