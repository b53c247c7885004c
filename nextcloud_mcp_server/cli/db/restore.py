"""``db backups`` and ``db restore``: which backups there are, and putting one in place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.cli.options import (
    Named,
    database_options,
    not_empty,
    while_running_option,
)
from nextcloud_mcp_server.cli.output import Output
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell, printable
from nextcloud_mcp_server.filesystem.space import readable

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring
    from nextcloud_mcp_server.maintenance.backups import BackupFile, Skipped
    from nextcloud_mcp_server.maintenance.restore import Restored
    from nextcloud_mcp_server.maintenance.restore_preview import RestorePreview


_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@click.command()
@database_options
@click.option("--verify", is_flag=True, help="Read each of them as a whole.")
def backups(output: Output, named: Named, *, verify: bool) -> int:
    """List the backups beside the database, newest first.

    With its time, age, revision, number of refresh tokens, size and whether it verifies: by
    its manifest and its size, or with --verify page by page, row by row and by its SHA-256.
    With --verify the exit status is 1 where one of them is not whole.
    """
    from nextcloud_mcp_server.cli.progress import telling  # noqa: PLC0415 - for this alone
    from nextcloud_mcp_server.maintenance.backups import list_backups  # noqa: PLC0415 - for this alone

    database = named.locate(output).database
    with telling(output) as say:
        say("reading the backups")
        found = list_backups(database, verify=verify)
    output.result(
        {"database": str(database), "backups": [listed_facts(backup) for backup in found]},
        *listed_lines(database, found),
    )
    return 1 if verify and any(backup.reason for backup in found) else 0


@click.command()
@database_options
@while_running_option
@click.option("--newest", is_flag=True, help="Take the newest backup that is whole.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.argument("backup", required=False, callback=not_empty)
def restore(
    output: Output,
    named: Named,
    backup: str | None,
    *,
    newest: bool,
    yes: bool,
    while_running: bool,
) -> int:
    """Put a backup in the place of the database.

    BACKUP is the path of one. With --newest it is the newest beside the database that is whole,
    of those that a migration or 'db backup' made: not what an earlier restore replaced.

    Verifies the backup first, says what it replaces, asks, and keeps what it replaces. A server
    that runs sees what was restored; restart it afterwards.
    """
    from nextcloud_mcp_server.backends.sqlite.in_use import require_idle  # noqa: PLC0415
    from nextcloud_mcp_server.cli.console_log import plain_log  # noqa: PLC0415
    from nextcloud_mcp_server.cli.interrupts import interruptible  # noqa: PLC0415
    from nextcloud_mcp_server.cli.progress import shown  # noqa: PLC0415
    from nextcloud_mcp_server.crypto.keyfile import available_keyring  # noqa: PLC0415
    from nextcloud_mcp_server.maintenance import restore as restoring  # noqa: PLC0415 - loads keys

    if newest is (backup is not None):
        raise click.UsageError("Give BACKUP or --newest, one of the two.")
    settings = named.settings(output)
    keyring = available_keyring(settings)
    offer, passed = _weighed(output, settings.database, backup, keyring)
    require_idle(offer.database, while_running=while_running)
    for line in [*passed_lines(passed), *offer_lines(offer)]:
        output.note(line)
    if not yes:
        _agree(output, offer, newest=newest)
    with interruptible(output, offer.database), plain_log(output), shown(output) as listener:
        done = restoring.restore(
            offer,
            while_running=while_running,
            keys=None if keyring is None else keyring.fingerprints,
            lock_timeout=settings.lock_timeout,
            progress=listener,
        )
    output.result(restored_facts(done, passed), *restored_lines(done))
    return 0


def _weighed(
    output: Output, database: Path, backup: str | None, keyring: Keyring | None
) -> tuple[RestorePreview, Sequence[Skipped]]:
    """What a restore of that backup, or else of the newest good one, would do."""
    from nextcloud_mcp_server.cli.progress import telling  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.maintenance.backups import newest_backup  # noqa: PLC0415 - see above
    from nextcloud_mcp_server.maintenance.restore_preview import preview_restore  # noqa: PLC0415 - see above

    with telling(output) as say:
        if backup is not None:
            return preview_restore(database, Path(backup), keyring, say), ()
        found = newest_backup(database, keyring, say)
        return preview_restore(database, found.backup, keyring, say), found.skipped


def _agree(output: Output, offer: RestorePreview, *, newest: bool) -> None:
    answer = output.answer("Restore? [y/N] ")
    if answer is not None and answer.lower() in {"y", "yes"}:
        return
    why = "There was nobody to ask" if answer is None else "The answer was not yes"
    backup = "--newest" if newest else for_shell(offer.backup.path)
    raise TokenStorageError(
        f"{why}, so nothing was changed.",
        code="declined",
        remedy="To restore without being asked: "
        f"nextcloud-mcp-server db restore {backup} -d {for_shell(offer.database)} --yes",
    )


def age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago ``moment`` was, roughly."""
    seconds = int(((now or datetime.now(UTC)) - moment).total_seconds())
    if seconds < 0:
        return "in the future"
    for size, word in ((_DAY, "day"), (_HOUR, "hour"), (_MINUTE, "minute")):
        if number := seconds // size:
            return f"{number} {word}{'s' if number > 1 else ''} ago"
    return "just now"


def _moment(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _counted(grants: int | None) -> str:
    if grants is None:
        return "? tokens"
    return f"{grants} token{'' if grants == 1 else 's'}"


def listed_lines(database: Path, found: Sequence[BackupFile]) -> list[str]:
    """One line for each backup; one that says so where there is none."""
    if not found:
        return [f"There is no backup beside {printable(str(database))}."]
    cells = [
        (
            _moment(backup.made_at),
            age(backup.made_at),
            backup.revision or "unversioned",
            _counted(backup.grants),
            readable(backup.size),
            backup.status,
            f"{backup.path.name}{f' ({backup.reason})' if backup.reason else ''}",
        )
        for backup in found
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        printable("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)))
        .rstrip()
        for row in cells
    ]  # fmt: skip


def listed_facts(backup: BackupFile) -> dict[str, Any]:
    """One backup, for ``--json``."""
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


def passed_lines(passed: Sequence[Skipped]) -> list[str]:
    """The newer backups that are no good, newest first, and why."""
    return [f"warning: passed over: {printable(reason)}" for _, reason in passed]


def offer_lines(offer: RestorePreview) -> list[str]:
    """What a restore would replace by what, before it is agreed to."""
    backup = offer.backup
    verb = "replaced by" if offer.exists else "made from"
    when = f"made {_moment(backup.made_at)} ({age(backup.made_at)})"
    lines = [
        f"{printable(str(offer.database))} {_now(offer)}.",
        f"It is {verb} {printable(str(backup.path))}, {when}, {_at(backup.revision)}:",
        *_tables(offer),
    ]
    if offer.exists:
        lines.append("What is replaced is kept beside it.")
    if offer.is_behind:
        lines.append(f"The next start of this version upgrades it to {offer.head}.")
    lines += [f"warning: {line}" for line in doubts(offer)]
    return lines


def _now(offer: RestorePreview) -> str:
    if not offer.exists:
        return "is not there"
    if offer.rows is None:
        return printable(f"cannot be read ({offer.present.reason})")
    return f"is {_at(offer.present.recorded)}"


def _at(revision: str | None) -> str:
    return f"at revision {revision}" if revision else "unversioned"


def _tables(offer: RestorePreview) -> list[str]:
    there = offer.rows or {}
    names = sorted(n for n in there.keys() | offer.backup.rows.keys()
                   if there.get(n) or offer.backup.rows.get(n))  # fmt: skip
    width = max(map(len, names), default=0)
    return [
        printable(
            f"  {name.ljust(width)}  {_rows(offer.rows, name)} now, "
            f"{_rows(offer.backup.rows, name)} then"
        )
        for name in names
    ]


def _rows(rows: dict[str, int] | None, name: str) -> str:
    if rows is None:
        return "?"
    return str(rows.get(name, "no table"))


def doubts(offer: RestorePreview) -> list[str]:
    """What speaks against a backup that can be restored."""
    backup = offer.backup
    found = []
    if backup.manifest is None:
        found.append("it has no manifest, so only what is in it could be checked")
    if backup.secrets and backup.opened is None:
        found.append(
            f"no key is at hand, so {counted(backup.secrets, 'secret')} in it could not be tried"
        )
    if backup.opened is not None and backup.opened < backup.secrets:
        found.append(
            f"no key at hand opens {backup.secrets - backup.opened} of its "
            f"{counted(backup.secrets, 'secret')}"
        )
    return found


def restored_lines(done: Restored) -> list[str]:
    """What a restore did."""
    offer = done.preview
    database, backup = printable(str(offer.database)), printable(str(offer.backup.path))
    line = f"restored {database} from {backup} in {done.seconds:.2f} s"
    return [line] if done.kept is None else [line, f"replaced: {printable(str(done.kept))}"]


def restored_facts(done: Restored, passed: Sequence[Skipped]) -> dict[str, Any]:
    """What a restore did, for ``--json``."""
    offer, backup = done.preview, done.preview.backup
    return {
        "database": str(offer.database),
        "backup": str(backup.path),
        "passed_over": [{"backup": str(path), "reason": reason} for path, reason in passed],
        "made_at": backup.made_at.isoformat(),
        "before": offer.present.recorded,
        "after": backup.revision,
        "rows_before": offer.rows,
        "rows_after": backup.rows,
        "secrets": backup.secrets,
        "opened": backup.opened,
        "warnings": doubts(offer),
        "replaced": None if done.kept is None else str(done.kept),
        "upgrade_pending": offer.is_behind,
        "seconds": round(done.seconds, 6),
    }
