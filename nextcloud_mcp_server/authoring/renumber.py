"""Move a migration to the end of the revision history, in a checkout only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nextcloud_mcp_server.authoring.create import cannot_move, rows_file
from nextcloud_mcp_server.authoring.lint import released
from nextcloud_mcp_server.authoring.lint.chain import LAST_SHARED_ID, next_number
from nextcloud_mcp_server.authoring.lint.version_files import Script, read_scripts
from nextcloud_mcp_server.errors import TokenStorageError
from nextcloud_mcp_server.migrate.typed_revision import unknown_target
from nextcloud_mcp_server.schema import history
from nextcloud_mcp_server.schema.history import is_checkout, load_history


@dataclass(frozen=True, slots=True)
class Place:
    """The new id of a revision, that of its parent (None for the first), and its new time."""

    script: Script
    id: str
    parent: str | None
    moment: str

    @property
    def path(self) -> Path:
        """The new file."""
        return self.script.path.with_name(f"{self.moment}_{self.id}_{self.script.slug}.py")

    @property
    def changes(self) -> bool:
        """Whether the file changes."""
        revision = self.script.values.get("revision", (None, 1))[0]
        same = (revision, self.script.parent) == (self.id, self.parent)
        return self.path != self.script.path or not same


def renumber(given: str) -> tuple[Place, ...]:
    """Move a revision to the end of the history, and renumber the unreleased ones.

    ``given`` is its file, or its id if only one file has it. The changed revisions are returned
    in the new order.

    Raises:
        TokenStorageError: ``not-a-checkout`` in an installed package; ``unknown-revision`` or
            ``bad-input`` if ``given`` names no file, or a file that must not move.
    """
    folder = history.locate_scripts()
    if not is_checkout():
        raise TokenStorageError(
            "Migrations can only be renumbered in a checkout; this is an installed package.",
            code="not-a-checkout",
            remedy="Clone the project, then run there: uv run nextcloud-mcp-server db migrate "
            "--renumber FILE",
        )
    scripts, problems = read_scripts(folder / "versions")
    if problems:
        raise cannot_move(f"{problems[0].path.name}: {problems[0].message}")
    fixed = _fixed(scripts, folder)
    moved = _named(scripts, given)
    if moved in fixed:
        raise cannot_move(f"{moved.path.name} is released: databases record its id.")
    line = [script for script in scripts if script is not moved]
    changed = tuple(place for place in arrange([*line, moved], fixed) if place.changes)
    _move(changed)
    load_history.cache_clear()
    return changed


def _fixed(scripts: Sequence[Script], folder: Path) -> list[Script]:
    """Return the released and the shared revisions; of two with one id, the older file."""
    try:
        known = released.load(folder)
    except ValueError as error:
        raise cannot_move(f"{released.RELEASED_FILE} cannot be read ({error}).") from error
    first: dict[str, Script] = {}
    for script in scripts:
        if script.id in known or int(script.id) <= LAST_SHARED_ID:
            first.setdefault(script.id, script)
    return list(first.values())


def _named(scripts: Sequence[Script], given: str) -> Script:
    by_name = [s for s in scripts if Path(given).name in (s.path.name, s.path.stem)]
    found = by_name or [s for s in scripts if s.id == given]
    if not found:
        raise unknown_target(given, load_history())
    if len(found) > 1:
        names = " and ".join(script.path.name for script in found)
        raise TokenStorageError(
            f"{given} is the id of {names}.",
            code="bad-input",
            remedy="Name the file that only you have run.",
        )
    return found[0]


def arrange(line: Sequence[Script], fixed: Sequence[Script]) -> list[Place]:
    """Return the place of each script: ids without gaps, dates in order. Pure.

    Those in ``fixed`` keep their id.
    """
    ordered = [s for s in line if s in fixed] + [s for s in line if s not in fixed]
    places: list[Place] = []
    for script in ordered:
        below = places[-1] if places else None
        number = int(script.id)
        if script not in fixed:
            number = next_number(int(below.id) if below else 0)
        moment = max(script.moment, below.moment) if below else script.moment
        places.append(Place(script, f"{number:03d}", below.id if below else None, moment))
    return places


def _move(places: Sequence[Place]) -> None:
    """Write each file and its test rows; all new files exist before an old one is deleted."""
    texts = {place.path: (place.script.path, _rewritten(place)) for place in places}
    for place in places:
        rows = rows_file(place.script)
        if rows.is_file():
            text = rows.read_text("utf-8").replace(
                f"revision {place.script.id},", f"revision {place.id},", 1
            )
            texts[rows_file(place.script, place.id)] = (rows, text)
    for new, (_, text) in texts.items():
        new.with_name(f"{new.name}.new").write_text(text, "utf-8")
    for old, _ in texts.values():
        old.unlink()
    for new in texts:
        new.with_name(f"{new.name}.new").rename(new)


def _rewritten(place: Place) -> str:
    parent = "None" if place.parent is None else f'"{place.parent}"'
    text = place.script.path.read_text("utf-8")
    for begins, value in (
        (r"revision\b[^=\n]*= *", f'"{place.id}"'),
        (r"down_revision\b[^=\n]*= *", parent),
        ("Revision ID: *", place.id),
        ("Revises: ?", place.parent or ""),
    ):
        pattern = re.compile(rf"^({begins}).*$", re.MULTILINE)
        text = pattern.sub(rf"\g<1>{value}", text, count=1)
    return text
