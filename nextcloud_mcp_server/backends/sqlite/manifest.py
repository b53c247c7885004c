"""The manifest of a backup: a JSON file beside it, with its hash, revision and rows.

It is written after the backup is complete and has its name. A kill between the two leaves a
backup without a manifest, but never a manifest that describes other bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.filesystem.files import write_private

#: The largest size of a manifest, in bytes.
_LONGEST: Final = 1_000_000

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Manifest:
    """The facts about a backup when it was made.

    Attributes:
        sha256: of the file, in hexadecimal.
        bytes: the size of the file.
        database: the name of the database file that was copied.
        revisions: the rows of its version table; None without the table.
        rows: the number of rows of every table.
        kind: ``automatic``, ``manual`` or ``replaced``.
        keys: fingerprints of the available keys, newest first; None if there were none.
        made_at: when, in UTC (ISO 8601).
        program_version: of the program that made it.
    """

    sha256: str
    bytes: int
    database: str
    revisions: tuple[str | None, ...] | None
    rows: Mapping[str, int]
    kind: str
    keys: tuple[str, ...] | None
    made_at: str
    program_version: str


def manifest_path(backup: Path) -> Path:
    """Return the path of the manifest of ``backup``."""
    return backup.with_name(backup.name + ".json")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Do not use it for a database in use: closing any descriptor of it drops the locks that
    SQLite holds on it in this process.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(backup: Path, manifest: Manifest) -> None:
    """Write the manifest of ``backup``, with mode 0600: all of it, or no file.

    Raises:
        OSError: it cannot be written. There can be one if only the folder was not synced.
    """
    content = json.dumps(asdict(manifest), indent=2).encode("ascii") + b"\n"
    write_private(manifest_path(backup), content, backup, overwrite=True)


def read_manifest(backup: Path) -> Manifest | None:
    """Return the manifest of ``backup``; None if there is none.

    Raises:
        ValueError: the file in its place is not a manifest.
        OSError: it cannot be read.
    """
    path = manifest_path(backup)
    try:
        if not path.is_file():
            # A reader of a pipe would wait.
            if path.is_symlink() or path.exists():
                raise ValueError(f"{path.name} is no manifest")
            return None
        with path.open("rb") as file:
            raw = file.read(_LONGEST)
    except FileNotFoundError:
        return None
    try:
        return _parsed(json.loads(raw))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path.name} is no manifest") from error


def _parsed(facts: Any) -> Manifest:
    revisions, keys = _list_or_none(facts["revisions"]), _list_or_none(facts["keys"])
    rows = _checked(facts["rows"], dict)
    manifest = Manifest(
        sha256=_checked(facts["sha256"], str),
        bytes=_checked(facts["bytes"], int),
        database=_checked(facts["database"], str),
        revisions=None if revisions is None else tuple(_text_or_none(r) for r in revisions),
        rows={_checked(t, str): _checked(n, int) for t, n in rows.items()},
        kind=_checked(facts["kind"], str),
        keys=None if keys is None else tuple(_checked(key, str) for key in keys),
        made_at=_checked(facts["made_at"], str),
        program_version=_checked(facts["program_version"], str),
    )
    if manifest.kind not in {"automatic", "manual", "replaced"}:
        raise ValueError(manifest.kind)
    if datetime.fromisoformat(manifest.made_at).tzinfo is None:
        raise ValueError(manifest.made_at)
    return manifest


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _list_or_none(value: Any) -> list[Any] | None:
    return None if value is None else list(_checked(value, list))


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(_checked(value, str))
