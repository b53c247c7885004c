"""The description of a revision is read from its docstring."""

from __future__ import annotations

from pathlib import Path

from nextcloud_mcp_server.schema.revision import describe, read_docstring

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


def test_every_part_is_read() -> None:
    """The title has no dot, the date is from the file name, and each label is one line."""
    revision = describe(DOC, "102", "101", PATH)
    assert (revision.id, revision.parent, revision.path) == ("102", "101", PATH)
    assert (revision.title, revision.date) == ("Add preferences", "2026-11-26")
    assert revision.changes == 'every theme becomes "light".'
    assert revision.loses == "every preference."
    assert revision.doc == DOC.strip()


def test_labels_may_have_any_order_or_be_absent() -> None:
    """A label ends with its paragraph; without a label the text is empty."""
    other = describe("Add it.\n\nDowngrade loses: it.\n\nUpgrade changes: rows.", "102", None, PATH)
    assert (other.loses, other.changes) == ("it.", "rows.")
    none = describe("", "102", None, PATH)
    assert (none.title, none.loses, none.changes) == ("", "", "")


def test_the_docstring_is_that_of_the_source_text(tmp_path: Path) -> None:
    """It is read from the file, because `python -OO` drops it; a file may have none."""
    there, without = tmp_path / "there.py", tmp_path / "without.py"
    there.write_text(f'# -*- coding: utf-8 -*-\n"""{DOC}"""\n', "utf-8")
    without.write_text("revision = '102'\n", "utf-8")
    assert read_docstring(there) == DOC
    assert read_docstring(without) == ""
