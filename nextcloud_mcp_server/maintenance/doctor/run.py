"""Every check there is, in turn; what each has found, worst first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import permissions
from nextcloud_mcp_server.maintenance.doctor import companions, files, integrity, schema, secrets
from nextcloud_mcp_server.maintenance.doctor.finding import WORST_FIRST, Finding, Level
from nextcloud_mcp_server.maintenance.doctor.subject import Subject, examined
from nextcloud_mcp_server.migrate.plan import State
from nextcloud_mcp_server.settings import Settings

Check = Callable[[Subject], Iterator[Finding]]

#: Every check by its name, in the order in which findings of one level are told.
CHECKS: Final[Mapping[str, Check]] = MappingProxyType(
    {
        "configuration": files.configuration,
        "file": files.file,
        "state": schema.state,
        "version": schema.version,
        "structure": schema.structure,
        "leftover tables": schema.leftovers,
        "integrity": integrity.integrity,
        "foreign keys": integrity.references,
        "journal": integrity.journal,
        "keys": secrets.keys,
        "format": secrets.formats,
        "permissions": files.permissions,
        "writable": files.writable,
        "file system": files.file_system,
        "space": files.space,
        "backups": companions.backups,
        "half-made files": companions.half_made,
        "lock": companions.lock,
        "server": companions.server,
        "clock": companions.clock,
    }
)


#: The checks that go by the rows of tables.
_OF_ROWS: Final = frozenset({"leftover tables", "foreign keys", "keys", "format", "clock"})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What every check has found, worst first."""

    database: Path
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Level:
        """The level of the worst finding."""
        return self.findings[0].level

    @property
    def unknown(self) -> tuple[Finding, ...]:
        """What could not be looked at."""
        return tuple(finding for finding in self.findings if finding.level is Level.UNKNOWN)

    @property
    def mendable(self) -> tuple[Finding, ...]:
        """What ``db repair`` would mend."""
        return tuple(finding for finding in self.findings if finding.mendable)


def diagnose(
    settings: Settings, *, full: bool = False, checks: Mapping[str, Check] = CHECKS
) -> Diagnosis:
    """Run every check on the database that ``settings`` name. Changes nothing.

    Args:
        settings: which database, and which keys.
        full: check every index entry and every backup as well, however long it takes.
        checks: which checks, by name.
    """
    with examined(settings, full=full) as subject:
        found = [
            finding for name, check in checks.items() for finding in _run(name, check, subject)
        ]
    if _is_damaged(found):
        # A backup of it would be refused.
        found = [_without(finding, "backup") for finding in map(_doubted, found)]
    if _is_no_store(subject):
        found = [_without_command(finding) for finding in found]
    elif _is_hopeless(subject, found):
        found = [replace(_without(finding, "repair"), mendable=False) for finding in found]
    order = {level: place for place, level in enumerate(WORST_FIRST)}
    return Diagnosis(subject.path, tuple(sorted(found, key=lambda f: order[f.level])))


def _is_no_store(subject: Subject) -> bool:
    """Whether there is nothing of ours, of which no command can be told."""
    opened = subject.opened
    return opened is None or opened.finding.state in {State.FOREIGN, State.NOT_A_DATABASE}


def _is_hopeless(subject: Subject, found: list[Finding]) -> bool:
    """Whether ``db repair`` refuses the database: only a backup, a newer release or root help."""
    opened = subject.opened
    if opened is None or (opened.finding.refused and opened.amends is None):
        return True
    if permissions.unwritable(subject.path):
        return True
    return any(f.check == "integrity" and f.level is Level.ERROR and not f.mendable for f in found)


def _is_damaged(found: list[Finding]) -> bool:
    return any(f.check == "integrity" and f.level is Level.ERROR for f in found)


def _doubted(finding: Finding) -> Finding:
    """What is well in rows of which a damaged page may hide some is not known to be well."""
    if finding.level is not Level.OK or finding.check not in _OF_ROWS:
        return finding
    what = f"{finding.message}, as far as damaged pages can be read (see integrity)"
    return replace(finding, level=Level.UNKNOWN, message=what)


def _without_command(finding: Finding) -> Finding:
    """The finding without what would change a file; another user may still look at it."""
    return replace(finding, mend=finding.mend if finding.looks else None, mendable=False)


def _without(finding: Finding, command: str) -> Finding:
    """The finding without an offer of that ``db`` command."""
    offered = finding.mend or ""
    refused = offered.startswith(f"nextcloud-mcp-server db {command} ")
    return replace(finding, mend=None if refused else finding.mend)


def _run(name: str, check: Check, subject: Subject) -> list[Finding]:
    """What a check has found; its own failure is a finding, and not the end."""
    found: list[Finding] = []
    try:
        found.extend(check(subject))
    except TokenStorageError as error:
        found.append(Finding(name, Level.ERROR, f"{error.message} {error.remedy}"))
    except Exception as error:  # noqa: BLE001 - one check that fails must not hide the others
        what = f"the check itself failed: {type(error).__name__}"
        found.append(Finding(name, Level.ERROR, what))
    if not found and subject.unread:
        found.append(Finding(name, Level.UNKNOWN, f"it was not looked at: {subject.unread}"))
    return found
