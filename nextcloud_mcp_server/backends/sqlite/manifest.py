"""The manifest of a backup: a JSON file beside it, with its hash, revision and rows.

It is written after the backup is complete and has its name. A kill between the two leaves a
backup without a manifest, but never a manifest that describes other bytes.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nextcloud_mcp_server.filesystem.files import read_small, write_private

#: The largest size of a manifest, in bytes.
_LONGEST: Final = 1_000_000

#: The fields that hold text.
_TEXTS: Final = ("sha256", "database", "kind", "made_at", "program_version")

#: The largest number in a manifest: SQLite holds no more bytes or rows.
LARGEST: Final = (1 << 63) - 1

#: The errors of read_small for what is not a small regular file.
_NOT_A_SMALL_FILE: Final = frozenset({errno.EINVAL, errno.EFBIG})


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
        sequence: a number higher than that of every older backup beside the database,
            because clocks go back; 0 in a manifest of an older release.
        action: of an automatic backup, the change that it was made before, as ``upgrade``;
            empty for others, and in a manifest of an older release.
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
    sequence: int = 0
    action: str = ""


def manifest_path(backup: Path) -> Path:
    """Return the path of the manifest of ``backup``."""
    return backup.with_name(backup.name + ".json")


def as_texts(versions: Sequence[object] | None) -> tuple[str | None, ...] | None:
    """Return the rows of a version table as a manifest has them: one may be a number or a BLOB."""
    if versions is None:
        return None
    return tuple(None if row is None else str(row) for row in versions)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Do not use it for a database in use: closing any descriptor of it drops the locks that
    SQLite holds on it in this process.
    """
    with path.open("rb", buffering=0) as file:
        # Not in a loop, whose variable would hold a part of the file.
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        return _parsed(json.loads(read_small(path, _LONGEST)))
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        cause = "it is a link to a file that is not there"
    except OSError as error:
        if error.errno not in _NOT_A_SMALL_FILE:
            raise
        cause = str(error.strerror)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        cause = "a field is missing or has another type"
    raise ValueError(f"{path.name} is no manifest: {cause}")


def _parsed(facts: Any) -> Manifest:
    rows, revisions, keys = facts["rows"], facts["revisions"], facts["keys"]
    sequence, action = facts.get("sequence", 0), facts.get("action", "")
    valid = (
        all(type(facts[name]) is str for name in _TEXTS)
        and all(map(_is_number, (facts["bytes"], sequence, *rows.values())))
        and type(action) is str
        and _is_list(revisions, str, type(None))
        and _is_list(keys, str)
        and facts["kind"] in {"automatic", "manual", "replaced", "rescued"}
        and _is_time(facts["made_at"])
    )
    if not valid:
        raise ValueError("a field has another type")
    return Manifest(
        bytes=facts["bytes"],
        revisions=None if revisions is None else tuple(revisions),
        rows=rows,
        sequence=sequence,
        action=action,
        keys=None if keys is None else tuple(keys),
        **{name: facts[name] for name in _TEXTS},
    )


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_time(text: str) -> bool:
    """Return whether a time has an offset, and can be converted to UTC.

    Raises:
        ValueError, OverflowError: it is no time, or UTC has no such year.
    """
    made_at = datetime.fromisoformat(text)
    return made_at.tzinfo is not None and made_at.astimezone(UTC) is not None


def _is_list(value: Any, *kinds: type) -> bool:
    return value is None or (type(value) is list and all(type(one) in kinds for one in value))
