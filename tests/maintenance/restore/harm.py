"""What may have happened to a database before it is restored, or to its backup."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from nextcloud_mcp_server.backends.sqlite.manifest import manifest_path


def run(path: Path, statement: str) -> None:
    """Execute one statement as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


def missing(path: Path) -> None:
    """There is no file."""
    path.unlink()


def missing_with_leftovers(path: Path) -> None:
    """There is no file, and beside its name lies what belonged to one."""
    path.unlink()
    for suffix in ("-wal", "-journal", "-shm"):
        path.with_name(path.name + suffix).write_bytes(b"stale" * 1000)


def emptied(path: Path) -> None:
    """A file of no bytes."""
    os.truncate(path, 0)


def garbage(path: Path) -> None:
    """A file of noise."""
    path.write_bytes(os.urandom(40_000))


def text_file(path: Path) -> None:
    """A file of text."""
    path.write_bytes(b"not a database\n" * 500)


def zero_page(path: Path) -> None:
    """The first page is zeros."""
    raw = path.read_bytes()
    path.write_bytes(bytes(4096) + raw[4096:])


def bad_schema(path: Path) -> None:
    """The schema is no text."""
    raw = bytearray(path.read_bytes())
    raw[100:400] = b"\xff" * 300
    path.write_bytes(raw)


def bad_page(path: Path) -> None:
    """Every page but the first two is hurt at its head."""
    raw = bytearray(path.read_bytes())
    for page in range(2, len(raw) // 4096):
        raw[page * 4096 : page * 4096 + 60] = b"\xa5" * 60
    path.write_bytes(raw)


def cut_off(path: Path) -> None:
    """The end is missing."""
    os.truncate(path, path.stat().st_size - 5000)


def stale_companions(path: Path) -> None:
    """Noise, with a journal and a `-wal` of noise beside it."""
    garbage(path)
    for suffix in ("-wal", "-journal"):
        path.with_name(path.name + suffix).write_bytes(b"stale" * 1000)


DAMAGE = (
    garbage, text_file, zero_page, bad_schema, bad_page, cut_off, stale_companions
)  # fmt: skip


def flip(saved: Path) -> None:
    """The last byte is another, which SQLite may not notice."""
    raw = bytearray(saved.read_bytes())
    raw[-1] ^= 1
    saved.write_bytes(raw)


def add_row(saved: Path) -> None:
    """Somebody has written into it."""
    run(saved, "INSERT INTO schema_version VALUES (9, 1)")


def no_table(saved: Path) -> None:
    """An empty file, without a manifest."""
    without_manifest(saved)
    os.truncate(saved, 0)


def without_manifest(saved: Path) -> None:
    """A backup that somebody made by hand."""
    manifest_path(saved).unlink()


def named_pipe(saved: Path) -> None:
    """No file at all, but a pipe."""
    saved.unlink()
    os.mkfifo(saved)


def bad_manifest(saved: Path) -> None:
    """A manifest that says nothing."""
    manifest_path(saved).write_text("{}")


def cut_backup(saved: Path) -> None:
    """The end is missing, and the manifest too."""
    without_manifest(saved)
    os.truncate(saved, saved.stat().st_size - 5000)


def bad_pages(saved: Path) -> None:
    """Hurt pages, without a manifest."""
    without_manifest(saved)
    bad_page(saved)
