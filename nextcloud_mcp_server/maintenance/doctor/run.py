"""Run every check, and sort the findings by severity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem.server_url import ServerUrl
from nextcloud_mcp_server.maintenance.doctor import (
    audit,
    companions,
    files,
    integrity,
    schema,
    secrets,
)
from nextcloud_mcp_server.maintenance.doctor.context import Context, open_context
from nextcloud_mcp_server.maintenance.doctor.finding import WORST_FIRST, Finding, Level
from nextcloud_mcp_server.settings import Settings

Check = Callable[[Context], Iterator[Finding]]

#: Every check by its name, in the order of findings of one level.
CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "configuration": files.configuration,
        "file": files.file,
        "state": schema.state,
        "version": schema.version,
        "structure": schema.structure,
        "triggers": schema.triggers,
        "leftover tables": schema.leftovers,
        "integrity": integrity.integrity,
        "foreign keys": integrity.references,
        "journal": integrity.journal,
        "sqlite": integrity.library,
        "keys": secrets.keys,
        "format": secrets.formats,
        "audit": audit.audit,
        "permissions": files.permissions,
        "writable": files.writable,
        "file system": files.file_system,
        "space": files.space,
        "backups": companions.backups,
        "incomplete files": companions.incomplete,
        "lock": companions.lock,
        "server": companions.server,
        "clock": companions.clock,
    }
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of every check, most severe first."""

    database: Path | ServerUrl
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Level:
        """The level of the most severe finding."""
        return self.findings[0].level

    @property
    def unknown(self) -> bool:
        """Whether something could not be checked."""
        return any(finding.level is Level.UNKNOWN for finding in self.findings)

    @property
    def fixable(self) -> tuple[Finding, ...]:
        """What ``db repair`` would fix."""
        return tuple(finding for finding in self.findings if finding.fixable)


def diagnose(
    settings: Settings, *, full: bool = False, checks: Mapping[str, Check] = CHECKS
) -> Diagnosis:
    """Run every check on the database that ``settings`` name. Changes nothing.

    With ``full``, check every index entry and every backup too, however long it takes.
    """
    if isinstance(settings.database, ServerUrl):
        # Imports the driver.
        from nextcloud_mcp_server.maintenance.doctor import server  # noqa: PLC0415

        return Diagnosis(settings.database, _sorted(server.findings(settings, settings.database)))
    with open_context(settings, full=full) as context:
        found = [
            replace(finding, check=name)
            for name, check in checks.items()
            for finding in _run(check, context)
        ]
        if not context.is_ours:
            # No command may change a file that is not of this program.
            found = [replace(finding, command=None, fixable=False) for finding in found]
    return Diagnosis(context.path, _sorted(found))


def _sorted(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: WORST_FIRST.index(finding.level)))


def _run(check: Check, context: Context) -> list[Finding]:
    """Return the findings of a check; an exception in it is a finding too."""
    found: list[Finding] = []
    try:
        found.extend(check(context))
    except TokenStorageError as error:
        found.append(Finding(Level.ERROR, f"{error.message} {error.remedy}"))
    except Exception as error:  # noqa: BLE001 - one check that fails must not hide the others
        found.append(Finding(Level.ERROR, f"the check itself failed: {type(error).__name__}"))
    if not found and context.rows_unread:
        found.append(Finding(Level.UNKNOWN, f"not checked: {context.rows_unread}"))
    return found
