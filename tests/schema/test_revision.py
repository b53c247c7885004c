"""What a revision says of itself, read from its docstring."""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.schema.revision import describe

PATH = Path("versions/20261126_1300_102_add_preferences.py")

DOC = """
Add preferences.

Why it is there.

Upgrade changes: every
  theme becomes "light".
Downgrade loses: every
  preference.

Revision ID: 102
"""


def test_every_part_is_found() -> None:
    """The title without its dot, the day of the file's name, and both labels on one line each."""
    found = describe(DOC, "102", "101", PATH)
    assert (found.id, found.parent, found.path) == ("102", "101", PATH)
    assert (found.title, found.date) == ("Add preferences", "2026-11-26")
    assert found.changes == 'every theme becomes "light".'
    assert found.loses == "every preference."
    assert found.doc == DOC.strip()


def test_the_labels_stand_in_any_order_or_not_at_all() -> None:
    """A label ends where a paragraph does, or at the end; what is not there is empty."""
    other = describe("Add it.\n\nDowngrade loses: it.\n\nUpgrade changes: rows.", "102", None, PATH)
    assert (other.loses, other.changes) == ("it.", "rows.")
    none = describe("", "102", None, PATH)
    assert (none.title, none.loses, none.changes) == ("", "", "")
