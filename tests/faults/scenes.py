"""The situations that are hurt: a database, an order, and what must hold afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import shapes
from tests.support.contents import KEY
from tests.support.promises import (
    complete_at_head,
    rows_survive,
    sealed_in,
)
from tests.support.shapes import Shape
from tests.support.snapshot import Snapshot, snapshot

NARROW: Final = (
    shapes.at("001")
    .unversioned()
    .narrowed(
        "refresh_tokens",
        "flow_type",
        "token_audience",
        "provisioned_at",
        "provisioning_client_id",
        "scopes",
        "user_profile",
        "profile_cached_at",
    )
)


@dataclass(frozen=True)
class Scene:
    """One order on one database.

    Attributes:
        name: for people.
        do: the victim's order.
        argument: its argument.
        make: writes the database; None for a path where nothing is.
        base: the revision that the database counts as.
    """

    name: str
    do: str
    argument: str = ""
    make: Callable[[Path], None] | None = None
    base: str | None = None


def of(shape: Shape, *pragmas: str) -> Callable[[Path], None]:
    """A function that writes ``shape``."""
    return lambda path: shape.write(path, pragmas)


UPGRADES: Final = (
    Scene("a first start", "start"),
    Scene("a narrow pre-Alembic file", "start", make=of(NARROW), base="001"),
    Scene("a raw 006", "start", make=of(shapes.at("006", "raw")), base="006"),
    Scene(
        "a portable 009 in WAL",
        "start",
        make=of(shapes.at("009", "portable"), "journal_mode=WAL"),
        base="009",
    ),
)

_HEAD: Final = shapes.at("010", "portable")

OTHERS: Final = (
    Scene("a downgrade", "downgrade", "009", of(_HEAD), "010"),
    Scene("a stamp", "stamp", "005", of(_HEAD), "010"),
    Scene("a backup", "backup", "", of(_HEAD, "journal_mode=WAL"), "010"),
)


def prepare(scene: Scene, folder: Path) -> Path:
    """Make the scene's database in ``folder`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokens.db"
    if scene.make:
        scene.make(path)
    return path


def whole(path: Path, before: Snapshot | None, base: str | None) -> None:
    """Assert that ``path`` is at head, complete, with every row and secret of ``before``.

    Args:
        path: the database, closed.
        before: what was in it; None for a database that was not there.
        base: the revision that it counted as.
    """
    after = snapshot(path)
    complete_at_head(after)
    if before is not None:
        rows_survive(before, after, base, {})
        assert sealed_in(before, KEY).items() <= sealed_in(after, KEY).items()
