"""Read a backup as a whole: what is in it, and whether it may be restored.

Nothing here changes a file.
"""

from __future__ import annotations

import re
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nextcloud_mcp_server.backends.sqlite.catalog import counts, observe, quoted
from nextcloud_mcp_server.backends.sqlite.connect import connect_at_rest
from nextcloud_mcp_server.backends.sqlite.manifest import Manifest, read_manifest, sha256_of
from nextcloud_mcp_server.errors import TokenStorageError, counted, for_shell
from nextcloud_mcp_server.migrate.classify import GRANTS, classify
from nextcloud_mcp_server.migrate.inspect import known_history
from nextcloud_mcp_server.migrate.plan import Finding, State
from nextcloud_mcp_server.schema.structure import ENCRYPTED, Structure

if TYPE_CHECKING:
    from nextcloud_mcp_server.crypto.keyring import Keyring


#: How a backup's name ends, behind the name of its database.
NAME: Final = re.compile(
    r"\.backup-(?P<made>\d{8}T\d{6}\.\d{6}Z)-(?P<revision>\w{1,32}?)(?:-(?P<kind>manual|replaced))?",
    re.ASCII,
)

#: Of a file: whether it is still the one that was looked at.
Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Backup:
    """A file that was read as a whole and can be restored.

    Attributes:
        path: the file.
        finding: what its database is.
        revisions: the rows of its version table; None without the table.
        rows: the number of rows of every table.
        size: in bytes.
        made_at: when it was made, as the manifest, the name or else the file's time says.
        manifest: its manifest; None where it has none.
        secrets: how many encrypted values are in it.
        opened: how many of them the keys at hand open; None where no key is.
        signature: tells whether the file has been changed since.
    """

    path: Path
    finding: Finding
    revisions: tuple[str | None, ...] | None
    rows: dict[str, int]
    size: int
    made_at: datetime
    manifest: Manifest | None
    secrets: int
    opened: int | None
    signature: Signature

    @property
    def revision(self) -> str | None:
        """The revision that it records; None for none."""
        return self.finding.recorded

    @property
    def grants(self) -> int:
        """How many refresh tokens are in it."""
        return self.rows.get(GRANTS, 0)


class ChangedError(Exception):
    """A backup is not what its manifest says."""


def vet(path: Path, database: Path, keyring: Keyring | None = None) -> Backup:
    """Read a backup as a whole, and answer what is in it.

    Args:
        path: the file; made by this program, or a copy that somebody made.
        database: whose backup it is to be; for the words of a refusal only.
        keyring: the keys at hand, to try on every secret in it.

    Raises:
        TokenStorageError: ``bad-backup``: it is no database of ours, damaged, newer than
            this program, or not what its manifest says; ``wrong-key`` where no key opens
            any of its secrets.
    """
    signature = signature_of(path, database)
    try:
        manifest = read_manifest(path)
        with closing(connect_at_rest(path)) as connection:
            connection.execute("BEGIN")
            found = _read(connection, path, database, manifest, keyring)
        if manifest and sha256_of(path) != manifest.sha256:
            # Last: what SQLite finds says more.
            raise ChangedError("its SHA-256 is not the one in its manifest")
    except ChangedError as error:
        raise _changed(path, str(error)) from error
    except (sqlite3.Error, UnicodeDecodeError, OSError, ValueError) as error:
        raise _bad(path, f"it cannot be read ({' '.join(str(error).split())})", database) from error
    if found.secrets and found.opened == 0:
        raise _wrong_key(path, found.secrets)
    if signature != signature_of(path, database):
        raise _bad(path, "it was changed while it was read", database)
    return found


def _read(
    connection: sqlite3.Connection,
    path: Path,
    database: Path,
    manifest: Manifest | None,
    keyring: Keyring | None,
) -> Backup:
    seen = observe(connection.execute)
    finding = classify(seen, known_history())
    if finding.refused:
        raise _bad(path, finding.reason, database)
    if finding.state is State.NEW:
        raise _bad(path, "there is no table in it", database)
    status = path.stat()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    if status.st_size % page_size:
        raise _bad(path, "its last page is cut off", database)
    said = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
    if said != ["ok"]:
        raise _bad(path, f"it is damaged: {' '.join('; '.join(map(str, said)).split())}", database)
    rows = counts(connection.execute, seen.structure)
    if manifest is not None:
        _check_contents(manifest, status.st_size, seen.versions, rows)
    sealed, opened = _try_keys(connection, seen.structure, keyring)
    return Backup(
        path=path,
        finding=finding,
        revisions=seen.versions,
        rows=rows,
        size=status.st_size,
        made_at=_made_at(path, manifest, status.st_mtime),
        manifest=manifest,
        secrets=sealed,
        opened=opened,
        signature=signature_of(path, database),
    )


def check_size(manifest: Manifest, size: int) -> None:
    """Raise ChangedError where a file does not have the size that its manifest says."""
    if manifest.bytes != size:
        raise ChangedError(f"it has {size} bytes, and its manifest says {manifest.bytes}")


def _check_contents(
    manifest: Manifest, size: int, revisions: tuple[str | None, ...] | None, rows: dict[str, int]
) -> None:
    check_size(manifest, size)
    if manifest.revisions != revisions:
        raise ChangedError("its revision is not the one in its manifest")
    for table in sorted(rows.keys() | manifest.rows.keys()):
        if rows.get(table) != manifest.rows.get(table):
            there, said = rows.get(table), manifest.rows.get(table, "no")
            found = "no rows" if there is None else counted(there, "row")
            raise ChangedError(f"{table} has {found}, and its manifest says {said}")


def _try_keys(
    connection: sqlite3.Connection, structure: Structure, keyring: Keyring | None
) -> tuple[int, int | None]:
    values = list(_secrets(connection, structure))
    return len(values), None if keyring is None else sum(map(keyring.can_decrypt, values))


def _secrets(connection: sqlite3.Connection, structure: Structure) -> Iterator[bytes]:
    for table, column in ENCRYPTED:
        if table in structure.tables and column in structure.tables[table].columns:
            for (value,) in connection.execute(
                f"SELECT {quoted(column)} FROM {quoted(table)} "  # noqa: S608 - our own names
                f"WHERE {quoted(column)} IS NOT NULL"
            ):
                yield value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")


def _made_at(path: Path, manifest: Manifest | None, modified: float) -> datetime:
    if manifest is not None:
        return datetime.fromisoformat(manifest.made_at).astimezone(UTC)
    match = NAME.search(path.name)
    return (match and time_of(match)) or datetime.fromtimestamp(modified, UTC)


def time_of(name: re.Match[str]) -> datetime | None:
    """When a backup of this name was made; None where it is no time."""
    try:
        return datetime.strptime(name["made"], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def signature_of(path: Path, database: Path) -> Signature:
    """What tells whether a file is still the one that was looked at.

    Raises:
        TokenStorageError: ``bad-backup`` where it is no regular file.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _bad(path, error.strerror or "it cannot be looked at", database) from error
    if not stat.S_ISREG(status.st_mode):
        raise _bad(path, "it is no regular file", database)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _bad(path: Path, reason: str, database: Path) -> TokenStorageError:
    return TokenStorageError(
        f"{path} cannot be restored: {reason}.",
        code="bad-backup",
        remedy="Choose another; see which there are with: "
        f"nextcloud-mcp-server db backups --verify -d {for_shell(database)}",
    )


def _changed(path: Path, reason: str) -> TokenStorageError:
    return TokenStorageError(
        f"{path} has been changed since it was made: {reason}.",
        code="bad-backup",
        remedy=f"Choose another. If the change was yours, delete {path.name}.json: the file is "
        "then judged by what is in it.",
    )


def _wrong_key(path: Path, secrets: int) -> TokenStorageError:
    return TokenStorageError(
        f"No given key opens any of the {secrets} secrets in {path}.",
        code="wrong-key",
        remedy="Give the key that they were written with in TOKEN_ENCRYPTION_KEY "
        "(several: NEWEST;OLDER); nothing was changed.",
    )
