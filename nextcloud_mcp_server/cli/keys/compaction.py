"""What the commands of keys say if old values may still be in a file."""

from __future__ import annotations

from collections.abc import Iterator


def compaction_lines(reason: str, option: str) -> Iterator[str]:
    """Return a line about a file that was not compacted; none if it was."""
    if reason:
        yield (
            f"old values may still be in unused parts of the file. {reason} When that is solved: "
            f"nextcloud-mcp-server keys rotate {option}"
        )
