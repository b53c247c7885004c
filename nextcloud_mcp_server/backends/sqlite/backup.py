"""Verified backups through SQLite's online backup API.

A copy counts only after it was read back: made under a temporary name, 0600, synced,
checked page by page and row by row, and then given its name. Its manifest follows.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.backends.sqlite.catalog import counts, observe
from nextcloud_mcp_server.backends.sqlite.connect import connect_read_only
from nextcloud_mcp_server.backends.sqlite.errors import named, naming
from nextcloud_mcp_server.backends.sqlite.inspect import check_pages
from nextcloud_mcp_server.backends.sqlite.manifest import (
    Manifest,
    manifest_path,
    read_manifest,
    sha256_of,
    write_manifest,
)
from nextcloud_mcp_server.backends.sqlite.size import size_of
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.filesystem import files
from nextcloud_mcp_server.filesystem.space import require_space
from nextcloud_mcp_server.progress import Reporter, silent

#: How many automatic backups of a database are kept.
KEEP: Final = 5

#: A backup's own name may be as long as this, so that its temporary ones fit as well.
_LONGEST_NAME: Final = 230

#: Pages copied at a time, between two looks at the clock.
_PAGES: Final = 1024

#: Seconds that the copy of a database may take before something must be wrong.
_DEADLINE: Final = 3600.0

#: How a backup came to be: by a migration, by name, or by a restore that replaces a database.
Kind = Literal["automatic", "manual", "replaced"]

_ID: Final = re.compile(r"\w{1,32}", re.ASCII)

_STAMP: Final = "%Y%m%dT%H%M%S.%fZ"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup must have in common with its source.

    Attributes:
        revisions: the rows of the version table; None without the table.
        rows: the number of rows of every table.
    """

    revisions: tuple[str | None, ...] | None
    rows: dict[str, int]


def backup_path(database: Path, revision: str | None, kind: Kind = "automatic") -> Path:
    """The name of a backup made now: ``tokens.db.backup-<UTC time>-<revision>``.

    Those of the other kinds end in ``-manual`` or ``-replaced``, and are never pruned. What
    a damaged version table holds instead of an id is not written into a name.
    """
    moment = datetime.now(UTC).strftime(_STAMP)
    ending = "" if kind == "automatic" else f"-{kind}"
    if revision is None or not _ID.fullmatch(revision):
        revision = "unversioned"
    return database.with_name(f"{database.name}.backup-{moment}-{revision}{ending}")


def automatic_backups(database: Path) -> list[Path]:
    """The automatic backups beside ``database``, oldest first."""
    name = re.compile(re.escape(database.name) + r"\.backup-\d{8}T\d{6}\.\d{6}Z-\w{1,32}", re.ASCII)
    return sorted(p for p in database.parent.iterdir() if name.fullmatch(p.name) and p.is_file())


def make_backup(
    source: Path,
    target: Path,
    *,
    kind: Kind = "automatic",
    keys: Sequence[str] | None = None,
    say: Reporter = silent,
) -> Path:
    """Copy ``source`` to ``target``, verify the copy, and write its manifest.

    What is copied is what a second connection sees: a migration's transaction may be
    open already, as long as it has written nothing.

    Args:
        source: the database, live or not.
        target: where the backup is to lie; must not be there.
        kind: for the manifest.
        keys: fingerprints of the keys at hand, for the manifest; None where there are none.
        say: is told how far the copy is.

    Raises:
        TokenStorageError: ``bad-path`` where the target is there or cannot be made;
            ``disk-full``, ``io-error``; ``backup-failed`` where the copy is not the same.
    """
    _check_free(target)
    require_space(target.parent, size_of(source), f"to back up {source}")
    with _private(target, source) as partial:
        try:
            there = copy_pages(source, partial, say)
            say("verifying the copy")
            _verify(source, partial, there)
            say("syncing the copy")
            files.sync(partial)
            manifest = _manifest(source, partial, there, kind, keys)
            _publish(partial, target, manifest)
        except (sqlite3.Error, OSError) as error:
            known = named(error, target)
            if known is None or known.code in {"corrupt", "not-a-database", "lock-timeout"}:
                raise _failed(source, str(error)) from error
            raise known from error
    return target


def _manifest(
    source: Path, partial: Path, there: Summary, kind: Kind, keys: Sequence[str] | None
) -> Manifest:
    return Manifest(
        sha256=sha256_of(partial),
        bytes=partial.stat().st_size,
        database=source.name,
        revisions=there.revisions,
        rows=there.rows,
        kind=kind,
        keys=None if keys is None else tuple(keys),
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        program_version=__version__,
    )


def _check_free(target: Path) -> None:
    """Refuse to overwrite anything; a manifest whose backup is gone is in nobody's way."""
    try:
        files.check_path(target, longest=_LONGEST_NAME)
    except TokenStorageError as error:
        # It is somebody's own choice, and no setting of the database's.
        raise TokenStorageError(
            error.message,
            code=error.code,
            remedy="Give the backup another path, of a file that is not there yet.",
        ) from None
    if target.exists():
        raise _taken(target)
    manifest = manifest_path(target)
    try:
        left = read_manifest(target)
    except (OSError, ValueError) as error:
        raise _taken(manifest) from error
    if left is not None:
        # Before the new backup has the name that it speaks of.
        with naming(manifest):
            manifest.unlink(missing_ok=True)


def _taken(path: Path) -> TokenStorageError:
    return TokenStorageError(
        f"{path} is there already, and a backup overwrites nothing.",
        code="bad-path",
        remedy="Give another name, or move the file away.",
    )


@contextmanager
def _private(target: Path, source: Path) -> Iterator[Path]:
    partial = target.with_name(f".{target.name}.{secrets.token_hex(3)}.partial")
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with closing(os.fdopen(descriptor, "wb")), suppress(OSError):
            files.hand_over(descriptor, source)
    except OSError as error:
        raise named(error, target) or _failed(target, str(error)) from error
    try:
        yield partial
    finally:
        # A disk that fails here as well is no news; prune() clears what stays.
        for suffix in ("", "-journal", "-wal", "-shm"):
            with suppress(OSError):
                partial.with_name(partial.name + suffix).unlink(missing_ok=True)


def _publish(partial: Path, target: Path, manifest: Manifest) -> None:
    try:
        # Not a rename: nothing that appeared there meanwhile is overwritten.
        os.link(partial, target)
    except FileExistsError as error:
        raise _failed(target, "its name was taken meanwhile") from error
    except OSError:
        # A file system without hard links.
        partial.rename(target)
    try:
        files.sync_folder(target.parent)
        write_manifest(target, manifest)
    except OSError:
        # Whoever asked is told that there is no backup, and asks again.
        with suppress(OSError):
            discard(target)
        raise


def copy_pages(source: Path, partial: Path, say: Reporter = silent) -> Summary:
    """Copy ``source`` and say what is in it, both as of one moment: it may be written to."""
    deadline = time.monotonic() + _DEADLINE
    say("copying it")

    def in_time(_status: int, remaining: int, total: int) -> None:
        say("copying it", total - remaining, total, "pages")
        # backup() tries for ever where the source stays locked.
        if time.monotonic() > deadline:
            raise TimeoutError(f"the copy took more than {_DEADLINE:g} seconds")

    with (
        closing(connect_read_only(source)) as reader,
        closing(sqlite3.connect(partial, isolation_level=None)) as writer,
    ):
        reader.execute("BEGIN")
        there = summary(reader)
        reader.backup(writer, pages=_PAGES, progress=in_time, sleep=0.05)
        # The copy of a WAL database is in WAL; a backup must be one file.
        writer.execute("PRAGMA journal_mode=DELETE")
    return there


def _verify(source: Path, copy: Path, there: Summary) -> None:
    if damage := check_pages(copy):
        raise _failed(source, damage)
    with closing(connect_read_only(copy)) as connection:
        here = summary(connection)
    if here != there:
        raise _failed(source, f"{here} was read back where {there} was to be copied")


def summary(connection: sqlite3.Connection) -> Summary:
    """What a backup must have in common with its source: revision and rows."""
    seen = observe(connection.execute)
    return Summary(seen.versions, counts(connection.execute, seen.structure))


def _failed(path: Path, detail: str) -> TokenStorageError:
    return TokenStorageError(
        f"The backup of {path} could not be made: {detail}.",
        code="backup-failed",
        remedy="Check the disk and its free space, then try again; nothing was changed.",
    )


def discard(backup: Path) -> None:
    """Delete a backup and its manifest; the manifest first, so that none speaks of nothing.

    Raises:
        OSError: the backup could not be deleted.
    """
    with suppress(OSError):
        manifest_path(backup).unlink(missing_ok=True)
    backup.unlink()


def prune(database: Path, keep: int = KEEP) -> list[Path]:
    """Delete the oldest automatic backups but the newest ``keep``; what was deleted.

    Other names, and what is not a backup of this database, are never touched. Where they
    cannot be listed or deleted, they stay: no start fails on them.
    """
    gone = []
    with suppress(OSError):
        old = automatic_backups(database)[:-keep] if keep else []
        for path in (*old, *_abandoned(database)):
            with suppress(OSError):
                discard(path)
                gone.append(path)
    return gone


def _abandoned(database: Path) -> list[Path]:
    """What a backup that was killed left under its temporary name, more than an hour ago."""
    name = re.compile(re.escape(f".{database.name}.backup-") + r".+\.partial(-journal|-wal|-shm)?")
    youngest = time.time() - _DEADLINE
    found = []
    for path in database.parent.iterdir():
        # One that is being made in this moment may get its name in this moment.
        with suppress(FileNotFoundError):
            if name.fullmatch(path.name) and path.lstat().st_mtime < youngest:
                found.append(path)
    return found
