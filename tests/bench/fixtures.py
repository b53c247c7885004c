"""A migrated database for a test: copied from the template of the pytest plugin."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from typing import Final

from tests.bench.harness import Row, compare, timed
from tests.bench.place import Place

#: The plugin, where this version has one.
PLUGIN: Final = "nextcloud_mcp_server.pytest_plugin"


def rows(place: Place) -> Iterator[Row]:
    """The figure of a migrated database for a test."""
    if importlib.util.find_spec(PLUGIN) is None:
        return
    yield from ()


def _copying(place: Place) -> Iterator[Row]:
    template = place.template(place.scale.rows[0])
    copy = place.folder / "copied.db"
    pairs = compare(
        timed(lambda: shutil.copyfile(template, copy), place.scale.calls),
        timed(lambda: shutil.copyfile(template, copy), place.scale.calls),
        place.scale.rounds,
    )
    yield pairs.judged("a migrated database for a test", "copying the file", 3)
