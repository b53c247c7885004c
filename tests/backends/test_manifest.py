"""The manifest of a backup, and the disk space that a backup needs."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nextcloud_mcp_server import __version__
from nextcloud_mcp_server.auth.storage import RefreshTokenStorage
from nextcloud_mcp_server.backends.sqlite import backup as backups
from nextcloud_mcp_server.backends.sqlite import backup_files, size
from nextcloud_mcp_server.backends.sqlite.manifest import Manifest, manifest_path, read_manifest
from nextcloud_mcp_server.crypto.keyring import Keyring
from nextcloud_mcp_server.filesystem import files, space
from nextcloud_mcp_server.maintenance.backup import back_up
from tests.support.by_path import prepare
from tests.support.contents import KEY, REFRESH_TOKENS
from tests.support.errors import refused
from tests.support.files import names
from tests.support.shapes import at
from tests.support.snapshot import snapshot


def manifest_of(backup: Path | None) -> Manifest:
    """Return the manifest of a backup, which must exist."""
    assert backup is not None
    manifest = read_manifest(backup)
    assert manifest is not None
    return manifest


def test_a_manifest_describes_its_backup(path: Path) -> None:
    """Hash, size, revision, rows, kind, version and time are those of the file beside it."""
    at("006").write(path)
    made = back_up(path)
    manifest = manifest_of(made)
    raw = made.read_bytes()
    assert (manifest.sha256, manifest.bytes) == (hashlib.sha256(raw).hexdigest(), len(raw))
    assert (manifest.database, manifest.revisions) == ("tokens.db", ("006",))
    rows = {table: len(found) for table, found in snapshot(path).rows.items()}
    assert manifest.rows == {t: n for t, n in rows.items() if t != "alembic_version"}
    assert manifest.rows["refresh_tokens"] == len(REFRESH_TOKENS)
    assert (manifest.kind, manifest.keys) == ("manual", None)
    assert manifest.program_version == __version__
    age = datetime.now(UTC) - datetime.fromisoformat(manifest.made_at)
    assert timedelta(seconds=-1) <= age < timedelta(minutes=1)
    assert manifest_path(made).stat().st_mode & 0o777 == 0o600


async def test_the_manifest_of_a_start_has_the_keys(path: Path) -> None:
    """A server that migrates writes the fingerprints of its keys into the manifest."""
    at("006").write(path)
    async with RefreshTokenStorage(path, encryption_key=KEY) as storage:
        assert storage.outcome is not None
        manifest = manifest_of(storage.outcome.backup)
    assert (manifest.kind, manifest.keys) == ("automatic", Keyring([KEY]).fingerprints)
    assert KEY not in manifest_path(storage.outcome.backup or path).read_text()


def test_a_manifest_is_deleted_with_its_backup(path: Path) -> None:
    """Pruning deletes both."""
    at("006").write(path)
    for _ in range(3):
        backups.make_backup(path, backup_files.backup_path(path, "006"))
    deleted = backup_files.prune(path, keep=1)
    [left] = backup_files.automatic_backups(path)
    assert len(deleted) == 2
    beside = {name for name in names(path.parent) if "backup" in name}
    assert beside == {left.name, f"{left.name}.json"}


@pytest.mark.parametrize("what", ["published", "write_manifest"])
def test_a_killed_backup_has_no_manifest(
    what: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is killed before the manifest is written, the backup is complete."""
    at("006").write(path)
    target = backup_files.backup_path(path, "006")

    class Killed(BaseException):
        """An exception that the program does not catch."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if what == "published":
            patch.setattr(files, "sync_folder", die)
        else:
            patch.setattr(backups, "write_manifest", die)
        with suppress(Killed):
            backups.make_backup(path, target)
    assert target.is_file()
    assert read_manifest(target) is None


def test_a_manifest_that_cannot_be_written_fails_the_backup(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the backup fails, no file of it is left."""
    at("006").write(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = names(path.parent)
    with monkeypatch.context() as patch:
        patch.setattr(backups, "write_manifest", full)
        assert refused(lambda: back_up(path)).code == "disk-full"
    assert names(path.parent) == before


def test_a_manifest_without_its_backup_is_replaced(path: Path, tmp_path: Path) -> None:
    """A manifest without its backup is overwritten."""
    at("006").write(path)
    target = tmp_path / "copy.db"
    back_up(path, target)
    target.unlink()
    at("007").write(tmp_path / "other.db")
    back_up(tmp_path / "other.db", target)
    assert manifest_of(target).revisions == ("007",)


def test_another_file_is_not_overwritten(path: Path, tmp_path: Path) -> None:
    """A file under the manifest's name that is no manifest is not overwritten."""
    at("006").write(path)
    target = tmp_path / "copy.db"
    taken = manifest_path(target)
    taken.write_text("[1, 2]")
    error = refused(lambda: back_up(path, target))
    assert (error.code, str(taken) in error.message) == ("bad-path", True)
    assert (taken.read_text(), target.exists()) == ("[1, 2]", False)


def _fields(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(raw: bytes) -> bytes:
        fields = json.loads(raw)
        change(fields)
        return json.dumps(fields).encode()

    return changed


def _without(key: str) -> Callable[[bytes], bytes]:
    return _fields(lambda fields: fields.pop(key))


def _with(key: str, value: object) -> Callable[[bytes], bytes]:
    return _fields(lambda fields: fields.update({key: value}))


def _content(raw: bytes) -> Callable[[bytes], bytes]:
    return lambda _: raw


@pytest.mark.parametrize(
    "change",
    [
        *map(_without, Manifest.__dataclass_fields__.keys() - {"sequence", "action"}),
        _with("bytes", "12"),
        _with("bytes", True),
        _with("rows", []),
        _with("rows", {"t": 1.5}),
        _with("revisions", [7]),
        _with("keys", [1]),
        _with("keys", "abcd1234"),
        _with("made_at", "yesterday"),
        _with("made_at", "2026-01-01T00:00:00"),
        _with("kind", "other"),
        _with("sequence", "7"),
        _with("sequence", -1),
        _with("action", 7),
        *map(_content, [b"", b"\xff", b"[" * 100_000, b"null", b"{}", b"[]", b"7"]),
    ],
)
def test_a_wrong_manifest_is_refused(change: Callable[[bytes], bytes], path: Path) -> None:
    """Each field must exist and have its type; no exception of the parser is raised."""
    at("006").write(path)
    made = back_up(path)
    assert read_manifest(made) is not None
    place = manifest_path(made)
    place.write_bytes(change(place.read_bytes()))
    with pytest.raises(ValueError, match="is no manifest"):
        read_manifest(made)


def test_a_pipe_is_no_manifest(path: Path) -> None:
    """A named pipe and a dangling link are not opened."""
    place = manifest_path(path)
    os.mkfifo(place)
    with pytest.raises(ValueError, match="is no manifest"):
        read_manifest(path)
    place.unlink()
    place.symlink_to("nowhere")
    with pytest.raises(ValueError, match="is no manifest"):
        read_manifest(path)


class Disk(NamedTuple):
    """The result of statvfs()."""

    f_blocks: int = 1000
    f_frsize: int = 1000
    f_bavail: int = 10
    f_bfree: int = 20
    f_flag: int = 0


def disk(patch: pytest.MonkeyPatch, result: Disk, user: int = 1000) -> None:
    """Give every disk the same result, for a user."""
    patch.setattr("os.statvfs", lambda _: result)
    patch.setattr("os.geteuid", lambda: user)


@pytest.mark.parametrize("call", [back_up, prepare])
def test_space_is_checked_before_a_backup(
    call: Callable[[Path], object], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the copy does not fit, nothing changes; the error has the needed and the free bytes."""
    at("006").write(path)
    before = snapshot(path)
    need = path.stat().st_size + space.MARGIN
    with monkeypatch.context() as patch:
        disk(patch, Disk())
        error = refused(lambda: call(path))
    assert error.code == "disk-full"
    assert f"{space.readable(need)} are needed and 10.0 kB are free" in error.message
    assert snapshot(path) == before
    assert names(path.parent) <= {"tokens.db", "tokens.db.lock"}


def test_pages_in_the_wal_count(path: Path) -> None:
    """The size of a database includes its pages in the WAL."""
    at("006").write(path)
    small = size.pages_of(path).bytes
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE much (it BLOB)")
        connection.execute("INSERT INTO much VALUES (zeroblob(1000000))")
        assert size.pages_of(path).bytes >= small + 1_000_000


@pytest.mark.parametrize(
    ("result", "user", "free"),
    [
        (Disk(), 1000, 10_000),
        (Disk(), 0, 20_000),
        (Disk(f_blocks=0, f_bavail=0, f_bfree=0), 1000, None),
    ],
)
def test_free_space_is_for_this_user(
    result: Disk, user: int, free: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root may use the reserved blocks; None if the disk reports no size."""
    with monkeypatch.context() as patch:
        disk(patch, result, user)
        assert space.free_bytes(tmp_path) == free


def test_a_missing_folder_is_not_full(tmp_path: Path) -> None:
    """A missing folder is reported by the code that writes there."""
    assert space.free_bytes(tmp_path / "nowhere") is None
    space.require_space(tmp_path / "nowhere", 10**18, "to try")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"),
     (5 * 10**9, "5.0 GB"), (7 * 10**15, "7000.0 TB")],
)  # fmt: skip
def test_sizes_are_readable(size: int, text: str) -> None:
    """A size is one number and its unit."""
    assert space.readable(size) == text
