"""``db backups``: list the backups of a database, and delete old ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.options import (
    WholeNumber,
    age_option,
    database_options,
    hours,
    yes_option,
)
from nextcloud_mcp_server.cli.output import Output, table
from nextcloud_mcp_server.errors import counted, for_shell, moment, printable
from nextcloud_mcp_server.filesystem.space import readable

if TYPE_CHECKING:
    from nextcloud_mcp_server.maintenance.backups import BackupFile
    from nextcloud_mcp_server.settings import Settings

_UNITS: Final = ((86400, "day"), (3600, "hour"), (60, "minute"))


@click.command()
@database_options
@click.option("--verify", is_flag=True, help="Read each backup completely.")
@click.option(
    "--keep",
    metavar="N",
    type=WholeNumber(min=1),
    help="Delete all but the newest N.  [default with --older-than: 5]",
)
@age_option(
    "--older-than",
    help="Delete those that are older, for example 30d; hours (h), days (d) or weeks (w).",
)
@yes_option
def backups(
    output: Output,
    option: DatabaseOption,
    *,
    verify: bool,
    keep: int | None,
    older_than: timedelta | None,
    yes: bool,
) -> int:
    """List the backups beside the database, newest first, or delete old ones.

    For each: the time, age, revision, number of refresh tokens, size, and the result of its
    verification: of its manifest and its size, with --verify also of every page, the row
    counts, the SHA-256, and whether the keys open it, if any is set. With --verify exits 1 if
    a backup is damaged, or no key opens it.

    With --keep or --older-than, lists the backups that it deletes, also your own, asks for
    confirmation, and deletes them. The last intact backup of each revision and kind of change
    is always kept.
    """
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.crypto.keyfile import available_keyring
    from nextcloud_mcp_server.maintenance.backups import list_backups

    deletes = keep is not None or older_than is not None
    if deletes and verify:
        raise click.UsageError("--verify lists backups; --keep and --older-than delete them.")
    if yes and not deletes:
        raise click.UsageError("--yes confirms a deletion: add --keep or --older-than.")
    if deletes:
        settings = option.settings(output, files_only="db backups")
        _delete(output, settings, keep=keep, older_than=older_than, yes=yes)
        return 0
    database = option.file(output, "db backups")
    keyring = available_keyring(option.settings(output)) if verify else None
    with phases(output, "reading the backups"):
        listed = list_backups(database, verify=verify, keyring=keyring)
    document = {"database": str(database), "backups": [listed_facts(backup) for backup in listed]}
    lines = table([_row(backup) for backup in listed])
    output.result(document, *(lines or [f"There is no backup beside {printable(str(database))}."]))
    return 1 if verify and any(backup.reason for backup in listed) else 0


def _delete(
    output: Output, settings: Settings, *, keep: int | None, older_than: timedelta | None, yes: bool
) -> None:
    from nextcloud_mcp_server.cli.operation import operation, phases
    from nextcloud_mcp_server.maintenance.backup_deletion import delete_backups, old_backups
    from nextcloud_mcp_server.maintenance.backups import found_backups, list_backups

    # Beside the file itself, if the path is a link.
    database, _ = found_backups(settings.file)
    with phases(output, "reading the backups"):
        agreed = old_backups(database, keep=keep, older_than=older_than)
        old = {one.path for one in agreed}
        rows = [_row(one) for one in list_backups(database) if one.path in old]
    for line in table(rows) if rows else ():
        output.note(line)
    if agreed and not yes:
        chosen = "" if keep is None else f" --keep {keep}"
        if older_than is not None:
            chosen += f" --older-than {hours(older_than)}"
        command = f"db backups{chosen} -d {for_shell(database)} --yes"
        output.confirm(f"Delete {counted(len(agreed), 'backup')}?", command)
    with operation(output):
        deleted = delete_backups(
            database, agreed, keep=keep, older_than=older_than, lock_timeout=settings.lock_timeout
        )
    left = list_backups(database)
    document = {
        "database": str(database),
        "deleted": [str(path) for path in deleted],
        "backups": [listed_facts(backup) for backup in left],
    }
    output.result(
        document,
        f"deleted {counted(len(deleted), 'backup')} of {printable(str(database))}, "
        f"{len(left)} left",
    )


def age(made_at: datetime, now: datetime | None = None) -> str:
    """Return how long ago ``made_at`` was, in its largest unit."""
    seconds = int(((now or datetime.now(UTC)) - made_at).total_seconds())
    if seconds < 0:
        return "in the future"
    for size, unit in _UNITS:
        if number := seconds // size:
            return f"{counted(number, unit)} ago"
    return "just now"


def _row(backup: BackupFile) -> tuple[str, ...]:
    return (
        moment(backup.made_at),
        age(backup.made_at),
        backup.revision or "unversioned",
        "? tokens" if backup.grants is None else counted(backup.grants, "token"),
        readable(backup.size),
        backup.status,
        f"{backup.path.name}{f' ({backup.reason})' if backup.reason else ''}",
    )


def listed_facts(backup: BackupFile) -> dict[str, Any]:
    """Return one backup of ``db backups`` for ``--json``."""
    return {
        "backup": str(backup.path),
        "kind": backup.kind,
        "made_at": backup.made_at.isoformat(),
        "age_seconds": int((datetime.now(UTC) - backup.made_at).total_seconds()),
        "revision": backup.revision,
        "refresh_tokens": backup.grants,
        "bytes": backup.size,
        "status": backup.status,
        "reason": backup.reason or None,
    }
