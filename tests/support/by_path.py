"""What the start and the changes do, called with the path of a database file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nextcloud_mcp_server.backends.connect import connect
from nextcloud_mcp_server.migrate import change, journal, startup
from nextcloud_mcp_server.migrate import inspect as inspection
from nextcloud_mcp_server.migrate.change import Change
from nextcloud_mcp_server.migrate.inspect import Inspection
from nextcloud_mcp_server.migrate.journal import Entry
from nextcloud_mcp_server.migrate.startup import Outcome


def prepare(path: Path, **options: Any) -> Outcome:
    """Start on a path."""
    return startup.prepare(connect(path), **options)


def inspect(path: Path) -> Inspection:
    """Inspect a path."""
    return inspection.inspect(connect(path))


def downgrade(path: Path, revision: str | None = None, **options: Any) -> Change:
    """Downgrade a path."""
    return change.downgrade(connect(path), revision, **options)


def stamp(path: Path, revision: str, **options: Any) -> Change:
    """Stamp a path."""
    return change.stamp(connect(path), revision, **options)


def read_journal(path: Path, limit: int | None = None) -> list[Entry] | None:
    """Read the journal of a path."""
    return journal.read(connect(path), limit)
