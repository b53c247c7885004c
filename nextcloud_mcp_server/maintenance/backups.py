"""The backups beside a database: which there are, and whether they may be trusted.

Nothing here changes a file.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nextcloud_mcp_server.backends.sqlite.manifest import read_manifest
from nextcloud_mcp_server.errors import TokenStorageError, for_shell
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.maintenance.backup_check import (
    NAME,
    Backup,
    ChangedError,
    check_size,
    time_of,
    vet,
)
from nextcloud_mcp_server.migrate.classify import GRANTS
from nextcloud_mcp_server.progress import Reporter, silent

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring


@dataclass(frozen=True, slots=True)
class Listed:
    """One backup beside a database.

    Attributes:
        path: the file.
        kind: ``automatic``, ``manual`` or ``replaced``.
        made_at: when it was made, in UTC.
        revision: the revision that it records; None for none.
        grants: how many refresh tokens are in it; None where nobody has counted them.
        size: in bytes.
        status: ``ok``, ``no manifest``, ``changed`` or ``damaged``.
        reason: what is wrong with it; empty where nothing is.
    """

    path: Path
    kind: str
    made_at: datetime
    revision: str | None
    grants: int | None
    size: int
    status: str
    reason: str = ""


class Passed(NamedTuple):
    """A backup that was passed over, and in one line why."""

    path: Path
    reason: str


class Newest(NamedTuple):
    """The newest backup that is whole, and the newer ones that are not, newest first."""

    backup: Backup
    passed: tuple[Passed, ...]


def is_backup_name(name: str) -> bool:
    """Whether ``name`` is one that only a backup has."""
    return NAME.search(name) is not None and not name.endswith(".json")


def beside(database: Path) -> list[tuple[datetime, Path, re.Match[str]]]:
    """Every backup beside ``database``, oldest first: when it was made, its path, its name.

    Raises:
        OSError: the folder cannot be read.
    """
    found = []
    for path in database.parent.iterdir():
        name = NAME.fullmatch(path.name.removeprefix(database.name))
        if name is None or not path.name.startswith(database.name):
            continue
        if (made_at := time_of(name)) and path.is_file():
            found.append((made_at, path, name))
    return sorted(found, key=lambda one: one[:2])


def backups_of(database: Path, *, verify: bool = False) -> list[Listed]:
    """The backups beside ``database``, newest first.

    Args:
        database: the database file; it need not be there any more.
        verify: read each of them as a whole, not only its manifest and its size.

    Raises:
        TokenStorageError: ``bad-path`` where no database can lie there, or the folder cannot
            be read.
    """
    files.check_path(database)
    database = files.follow(database)
    listed = []
    try:
        for made_at, path, name in reversed(beside(database)):
            # One that is pruned in this moment is no backup any more.
            with suppress(FileNotFoundError):
                listed.append(_listed(path, name, made_at, database if verify else None))
    except OSError as error:
        raise _bad_folder(database.parent, error) from error
    return listed


def newest_good(database: Path, keyring: Keyring | None = None, say: Reporter = silent) -> Newest:
    """The newest backup beside ``database`` that may be restored, read as a whole.

    Those that a migration made and those that somebody made; not what a restore replaced. They
    are read from the newest on, and the first good one is the last that is read.

    Args:
        database: the database file; it need not be there any more.
        keyring: the keys at hand, to try on every secret in a backup.
        say: is told what is being read.

    Raises:
        TokenStorageError: ``bad-backup`` where none is good; ``wrong-key`` where no key opens
            the newest that is whole: an older one would lose what the missing key opens;
            ``bad-path`` as :func:`backups_of`.
    """
    files.check_path(database)
    database = files.follow(database)
    try:
        found = beside(database)
    except OSError as error:
        raise _bad_folder(database.parent, error) from error
    passed: list[Passed] = []
    for _, path, name in reversed(found):
        if name["kind"] == "replaced":
            continue
        say(f"verifying {path.name}")
        try:
            return Newest(vet(path, database, keyring), tuple(passed))
        except TokenStorageError as error:
            if error.code != "bad-backup":
                raise
            passed.append(Passed(path, error.message))
    raise _none_good(database, passed)


def _listed(path: Path, name: re.Match[str], made_at: datetime, database: Path | None) -> Listed:
    """One of them; read as a whole where the database that it belongs to is given."""
    manifest, status, reason = None, "no manifest", ""
    size = path.stat().st_size
    try:
        manifest = read_manifest(path)
        if manifest is not None:
            status = "ok"
            check_size(manifest, size)
    except (OSError, ValueError, ChangedError) as error:
        status, reason = "changed", str(error)
    revision = _recorded(manifest.revisions) if manifest else name["revision"]
    grants = manifest.rows.get(GRANTS) if manifest else None
    if database and status != "changed":
        try:
            whole = vet(path, database)
        except TokenStorageError as error:
            cause = isinstance(error.__cause__, ChangedError)
            status, reason = "changed" if cause else "damaged", error.message
        else:
            revision, grants = whole.revision, whole.grants
    return Listed(
        path=path,
        kind=name["kind"] or "automatic",
        made_at=made_at,
        revision=None if revision == "unversioned" else revision,
        grants=grants,
        size=size,
        status=status,
        reason=reason,
    )


def _recorded(revisions: tuple[str | None, ...] | None) -> str | None:
    return revisions[0] if revisions and len(revisions) == 1 else None


def _bad_folder(folder: Path, error: OSError) -> TokenStorageError:
    return TokenStorageError(
        f"{folder} cannot be read ({error.strerror}).",
        code="bad-path",
        remedy="Give the path of the database with -d; its backups are looked for beside it.",
    )


def _none_good(database: Path, passed: list[Passed]) -> TokenStorageError:
    return TokenStorageError(
        f"No backup beside {database} can be restored ({len(passed)} read). The newest: "
        f"{passed[0].reason}"
        if passed
        else f"There is no backup beside {database} to restore.",
        code="bad-backup",
        remedy="See what lies there: nextcloud-mcp-server db backups --verify -d "
        f"{for_shell(database)} (a copy that lies elsewhere is restored by its path); nothing "
        "was changed.",
    )
