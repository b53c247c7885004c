"""Manifests and backups that others wrote: read to an answer, never to an exception."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nextcloud_mcp_server.backends.sqlite.manifest import Manifest, manifest_path, read_manifest
from nextcloud_mcp_server.maintenance.backup import back_up
from nextcloud_mcp_server.maintenance.backup_check import check_backup, time_made
from nextcloud_mcp_server.maintenance.backups import list_backups, newest_backup
from tests.support.errors import refused
from tests.support.shapes import at

#: Times that datetime parses, and that UTC does not have; and what is no time.
IMPOSSIBLE = [
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "0000-01-01T00:00:00+00:00",
    "99999-01-01T00:00:00+00:00",
    "-0001-01-01T00:00:00+00:00",
    "2026-13-45T99:99:99+00:00",
    "2026\x00-01-01T00:00:00+00:00",
    "1e308",
    "\ud800",
    "",
]

#: What JSON can hold, and more: NaN, infinities, huge numbers, lone surrogates.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 1 << 63, -1])
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.sampled_from(IMPOSSIBLE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

FIELDS: dict[str, Any] = {
    "sha256": "0" * 64,
    "bytes": 4096,
    "database": "tokens.db",
    "revisions": ["006"],
    "rows": {"refresh_tokens": 1},
    "kind": "manual",
    "keys": None,
    "made_at": "2026-01-01T00:00:00+00:00",
    "program_version": "1",
}

foreign = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def _read(path: Path, content: bytes) -> Manifest | None:
    manifest_path(path).write_bytes(content)
    with suppress(ValueError):
        return read_manifest(path)
    return None


@foreign
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), VALUES, max_size=3))
@example({"made_at": IMPOSSIBLE[0]})
@example({"made_at": IMPOSSIBLE[1]})
@example({"rows": {"refresh_tokens": -1}})
def test_any_field_gives_a_manifest_or_a_value_error(path: Path, changed: dict[str, Any]) -> None:
    """A field of any value is refused with ValueError, or its time and numbers can be used."""
    found = _read(path, json.dumps(FIELDS | changed).encode())
    if found is not None:
        assert datetime.fromisoformat(found.made_at).astimezone(UTC).tzinfo is UTC
        assert all(0 <= number < 1 << 63 for number in (found.bytes, *found.rows.values()))


@foreign
@given(st.binary() | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_a_manifest_or_a_value_error(path: Path, content: bytes) -> None:
    """What is no JSON object with these fields is refused with ValueError."""
    assert _read(path, content) is None


@pytest.fixture
def two(path: Path) -> tuple[Path, Path]:
    """An older and a newer backup beside the database."""
    at("006").write(path)
    return back_up(path), back_up(path)


def _with(name: str, value: object) -> Callable[[Path], object]:
    def write(place: Path) -> None:
        place.write_text(json.dumps(json.loads(place.read_bytes()) | {name: value}))

    return write


def _other(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(place: Path) -> None:
        place.unlink()
        make(place)

    return replace


def _socket(place: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            # A name in a socket's address has at most 107 bytes.
            listener.bind(f"/proc/self/fd/{folder}/s")
        finally:
            os.close(folder)
    (place.parent / "s").rename(place)


def _huge(place: Path) -> None:
    with place.open("wb") as file:
        file.truncate(1 << 40)


HARM: dict[str, Callable[[Path], object]] = {
    **{f"time {number}": _with("made_at", text) for number, text in enumerate(IMPOSSIBLE)},
    "NaN": _with("bytes", float("nan")),
    "a negative number": _with("rows", {"refresh_tokens": -1}),
    "not UTF-8": lambda place: place.write_bytes(b"\xff\xfe\x00{"),
    "deep": lambda place: place.write_bytes(b"[" * 500_000),
    "huge": _huge,
    "a folder": _other(Path.mkdir),
    "a pipe": _other(os.mkfifo),
    "a socket": _other(_socket),
    "a device": _other(lambda place: place.symlink_to("/dev/zero")),
    "a loop": _other(lambda place: place.symlink_to(place.name)),
    "a link to nothing": _other(lambda place: place.symlink_to("nowhere")),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_bad_manifest_stops_no_other_backup(
    harm: Callable[[Path], object], path: Path, two: tuple[Path, Path]
) -> None:
    """A backup with it is bad by name; the older one is listed as intact, and chosen."""
    older, newer = two
    harm(manifest_path(newer))
    error = refused(lambda: check_backup(newer, path))
    assert (error.code, str(newer) in error.message) == ("bad-backup", True)
    for verify in (False, True):
        listed = {one.path: one.status for one in list_backups(path, verify=verify)}
        assert listed == {newer: "changed", older: "ok"}
    found = newest_backup(path)
    assert (found.backup.path, [one.path for one in found.skipped]) == (older, [newer])


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, _socket], ids=["folder", "pipe", "socket"])
def test_what_is_no_file_is_no_backup(
    make: Callable[[Path], object], path: Path, two: tuple[Path, Path]
) -> None:
    """A folder, a pipe or a socket with a backup's name is not opened; by its path it is bad."""
    strange = path.with_name("tokens.db.backup-20991231T235959.000000Z-006")
    make(strange)
    assert refused(lambda: check_backup(strange, path)).code == "bad-backup"
    assert {one.path for one in list_backups(path, verify=True)} == set(two)
    assert newest_backup(path).backup.path == two[1]


def test_a_name_with_a_null_byte_is_a_bad_backup(path: Path, two: tuple[Path, Path]) -> None:
    """No file has such a name, and it is refused as any other that is not there."""
    assert two
    assert refused(lambda: check_backup(Path("a\0b"), path)).code == "bad-backup"


@pytest.mark.parametrize("modified", [0.0, -1e12, 1e12, 1e308, float("inf")])
def test_the_time_of_a_file_may_be_impossible(modified: float, tmp_path: Path) -> None:
    """File systems keep times that a calendar does not have: the nearest one is shown."""
    made_at = time_made(tmp_path / "copy.db", None, modified)
    assert 1 <= made_at.year <= 9999
