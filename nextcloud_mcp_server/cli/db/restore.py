"""``db restore``: restore a backup."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.cli.database import DatabaseOption
from nextcloud_mcp_server.cli.db.backups import age
from nextcloud_mcp_server.cli.options import (
    FileName,
    database_options,
    not_empty,
    while_running_option,
    yes_option,
)
from nextcloud_mcp_server.cli.output import Output, table
from nextcloud_mcp_server.errors import counted, for_shell, moment, printable

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring
    from nextcloud_mcp_server.maintenance.backups import Skipped
    from nextcloud_mcp_server.maintenance.restore import Restored
    from nextcloud_mcp_server.maintenance.restore_preview import RestorePreview


@click.command()
@database_options
@while_running_option
@click.option("--newest", is_flag=True, help="Restore the newest intact backup.")
@yes_option
@click.argument("backup", type=FileName(), required=False, callback=not_empty)
def restore(
    output: Output,
    option: DatabaseOption,
    backup: str | None,
    *,
    newest: bool,
    yes: bool,
    while_running: bool,
) -> None:
    """Replace the database with a backup.

    BACKUP is the path of one. --newest takes the newest intact backup beside the database
    that a migration, 'db backup' or a server whose file was deleted made, not one that an
    earlier restore replaced.

    Verifies the backup, shows what it replaces, asks for confirmation, and keeps the
    replaced file. A running server uses the restored database; restart it afterwards.
    """
    from nextcloud_mcp_server.cli.operation import operation
    from nextcloud_mcp_server.crypto.keyfile import available_keyring
    from nextcloud_mcp_server.maintenance import restore as restoring

    if newest is (backup is not None):
        raise click.UsageError("Give BACKUP or --newest, and not both.")
    settings = option.settings(output, files_only="db restore")
    keyring = available_keyring(settings)
    preview, skipped = _preview(output, settings.file, backup, keyring)
    connect(preview.database).require_idle(while_running=while_running)
    for _, reason in skipped:
        output.note(f"warning: skipped: {printable(reason)}")
    for line in preview_lines(preview):
        output.note(line)
    if not yes:
        chosen = "--newest" if newest else for_shell(preview.backup.path)
        path = for_shell(preview.database)
        output.confirm("Restore?", f"db restore {chosen} -d {path} --yes")
    with operation(output, preview.database) as progress:
        done = restoring.restore(
            preview,
            while_running=while_running,
            keys=None if keyring is None else keyring.fingerprints,
            lock_timeout=settings.lock_timeout,
            progress=progress,
        )
    output.result(restored_facts(done, skipped), *restored_lines(done))


def _preview(
    output: Output, database: Path, backup: str | None, keyring: Keyring | None
) -> tuple[RestorePreview, Sequence[Skipped]]:
    """Return what a restore would do, and the newer backups that are not usable."""
    from nextcloud_mcp_server.cli.operation import phases
    from nextcloud_mcp_server.maintenance.backups import newest_backup
    from nextcloud_mcp_server.maintenance.restore_preview import preview_restore

    with phases(output) as report:
        if backup is not None:
            return preview_restore(database, Path(backup), keyring, report), ()
        newest = newest_backup(database, keyring, report)
        return preview_restore(database, newest.backup, keyring, report), newest.skipped


def preview_lines(preview: RestorePreview) -> list[str]:
    """Return what a restore would replace, and with what."""
    backup = preview.backup
    verb = "replaced by" if preview.exists else "created from"
    when = f"made {moment(backup.made_at)} ({age(backup.made_at)})"
    lines = [
        f"{printable(str(preview.database))} {_state(preview)}.",
        f"It is {verb} {printable(str(backup.path))}, {when}, {_revision(backup.revision)}:",
        *_row_counts(preview),
    ]
    if preview.exists:
        lines.append("The replaced file is kept beside it.")
    if preview.is_behind:
        lines.append(f"The next start of this version upgrades it to {preview.head}.")
    lines += [f"warning: {line}" for line in warnings(preview)]
    return lines


def _state(preview: RestorePreview) -> str:
    if not preview.exists:
        return "does not exist"
    if preview.rows is None:
        return printable(f"cannot be read ({preview.present.reason})")
    return f"is {_revision(preview.present.recorded)}"


def _revision(revision: str | None) -> str:
    return f"at revision {revision}" if revision else "unversioned"


def _row_counts(preview: RestorePreview) -> list[str]:
    present, backup = preview.rows or {}, preview.backup.rows
    names = sorted(n for n in present.keys() | backup.keys() if present.get(n) or backup.get(n))
    return table([
        ("", name, f"{_rows(preview.rows, name)} now, {_rows(backup, name)} in the backup")
        for name in names
    ])  # fmt: skip


def _rows(rows: dict[str, int] | None, name: str) -> str:
    return "?" if rows is None else str(rows.get(name, "no table"))


def warnings(preview: RestorePreview) -> list[str]:
    """Return what may be wrong with a backup that can be restored."""
    backup = preview.backup
    lines = []
    if backup.manifest is None:
        lines.append("it has no manifest, so only its contents could be verified")
    secrets = counted(backup.secrets, "secret")
    if backup.secrets and backup.opened is None:
        lines.append(f"no key is set, so its {secrets} could not be verified")
    if backup.opened is not None and backup.opened < backup.secrets:
        lines.append(f"no given key decrypts {backup.secrets - backup.opened} of its {secrets}")
    lines += [
        f"its trigger {printable(trigger)} on {table} can change or prevent what is stored there"
        for trigger, table in backup.triggers.items()
    ]
    return lines


def restored_lines(done: Restored) -> list[str]:
    """Return what a restore did."""
    preview = done.preview
    database, backup = printable(str(preview.database)), printable(str(preview.backup.path))
    line = f"restored {database} from {backup} in {done.seconds:.2f} s"
    return [line] if done.kept is None else [line, f"replaced: {printable(str(done.kept))}"]


def restored_facts(done: Restored, skipped: Sequence[Skipped]) -> dict[str, Any]:
    """Return what a restore did, for ``--json``."""
    preview, backup = done.preview, done.preview.backup
    return {
        "database": str(preview.database),
        "backup": str(backup.path),
        "passed_over": [{"backup": str(path), "reason": reason} for path, reason in skipped],
        "made_at": backup.made_at.isoformat(),
        "before": preview.present.recorded,
        "after": backup.revision,
        "rows_before": preview.rows,
        "rows_after": backup.rows,
        "secrets": backup.secrets,
        "opened": backup.opened,
        "warnings": warnings(preview),
        "replaced": None if done.kept is None else str(done.kept),
        "upgrade_pending": preview.is_behind,
        "seconds": round(done.seconds, 6),
    }
