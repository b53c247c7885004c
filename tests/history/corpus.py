"""The corpus of real files as test cases; there are none if it is not beside the checkout."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests.history.case import Case
from tests.support.snapshot import COMPANIONS

ARCHIVE: Final = Path(__file__).parents[3] / "shared" / "corpus" / "databases.tar.xz"


@cache
def files() -> Mapping[str, bytes]:
    """Return the content of every file of the corpus by name."""
    if not ARCHIVE.exists():
        return {}
    with tarfile.open(ARCHIVE) as archive:
        members = ((member, archive.extractfile(member)) for member in archive)
        return {Path(member.name).name: file.read() for member, file in members if file}


def all_cases() -> list[Case]:
    """Return a case for every file of the corpus, with the expectations of its sidecar."""
    sidecars = sorted(name for name in files() if name.endswith(".json"))
    return [_case(json.loads(files()[name])) for name in sidecars]


def _case(sidecar: Mapping[str, Any]) -> Case:
    name = sidecar["name"]
    secrets = {
        (secret["table"], str(next(iter(secret["key"].values()))), secret["column"]): str(
            secret["plaintext"]
        )
        for secret in sidecar["secrets"]
        if not secret.get("unrecoverable") and not secret.get("other_key")
    }
    return Case(
        f"corpus_{name}",
        _action(sidecar["expected"]["action"]),
        _unpack(name),
        key=sidecar["fernet_key"],
        secrets=secrets,
    )


def _action(expected: str) -> str:
    """Return the expected action at today's head; the corpus was created at 010."""
    return {"none": "upgrade:010->head", "repair@010": "repair->010->head"}.get(expected, expected)


def _unpack(name: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        for suffix in ("", *COMPANIONS):
            if (content := files().get(f"{name}.db{suffix}")) is not None:
                Path(f"{path}{suffix}").write_bytes(content)

    return write
