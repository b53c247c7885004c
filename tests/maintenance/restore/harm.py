"""What can happen to a database before a restore, or to its backup."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path
from tests.cli.places import execute

Harm = Callable[[Path], object]


def garbage(path: Path) -> None:
    """Replace a file with noise."""
    path.write_bytes(os.urandom(40_000))


def flip(saved: Path) -> None:
    """Flip a bit of a value that is in no index, which SQLite may not notice, or flip it back."""
    raw = bytearray(saved.read_bytes())
    raw[raw.rindex(b"ybrid") - 1] ^= 1
    saved.write_bytes(raw)


def bad_pages(path: Path) -> None:
    """Damage the head of every page but the first two, and remove a manifest."""
    manifest_path(path).unlink(missing_ok=True)
    for page in range(2, path.stat().st_size // 4096):
        _write(path, page * 4096, b"\xa5" * 60)


def cut_off(path: Path) -> None:
    """Remove the end of a file, and a manifest."""
    manifest_path(path).unlink(missing_ok=True)
    os.truncate(path, path.stat().st_size - 5000)


def _write(path: Path, place: int, raw: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(raw)


def _leave(path: Path, *suffixes: str) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).write_bytes(b"stale" * 1000)


def _garbage_with_companions(path: Path) -> None:
    garbage(path)
    _leave(path, "-wal", "-journal")


def _missing_with_companions(path: Path) -> None:
    path.unlink()
    _leave(path, "-wal", "-journal", "-shm")


def _emptied(path: Path) -> None:
    manifest_path(path).unlink(missing_ok=True)
    os.truncate(path, 0)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


#: Of a database.
DAMAGE: Final[Mapping[str, Harm]] = {
    "garbage": garbage,
    "text": lambda path: path.write_bytes(b"not a database\n" * 500),
    "zero page": lambda path: _write(path, 0, bytes(4096)),
    "bad schema": lambda path: _write(path, 100, b"\xff" * 300),
    "bad pages": bad_pages,
    "cut off": cut_off,
    "stale companions": _garbage_with_companions,
}
LOSS: Final[Mapping[str, Harm]] = {
    "missing": Path.unlink,
    "leftovers": _missing_with_companions,
    "emptied": _emptied,
}

#: Of a backup.
BAD_BACKUP: Final[Mapping[str, Harm]] = {
    "flipped bit": flip,
    "another row": lambda saved: execute(saved, "INSERT INTO schema_version VALUES (9, 1)"),
    "no table": _emptied,
    "pipe": _pipe,
    "bad manifest": lambda saved: manifest_path(saved).write_text("{}"),
    "cut off": cut_off,
    "bad pages": bad_pages,
    "missing": Path.unlink,
}
