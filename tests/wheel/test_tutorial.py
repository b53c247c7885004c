"""The tutorial, walked from its first command to its last in a copy of the checkout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.migrations import get_current_revision
from tests.support.revisions import ALL, HEAD, NEXT_ID
from tests.wheel.documents import ROOT, Block, blocks, checkout, environment, run

TUTORIAL: Final = ROOT / "docs" / "tutorial" / "write-a-migration.md"


def _revision(folder: Path) -> Path:
    (path,) = (folder / "alembic" / "versions").glob(f"*_{NEXT_ID}_add_user_preferences.py")
    return path


def _write(block: Block, folder: Path) -> None:
    """Do what the page says to do with a block that is no command."""
    if block.text.startswith('"""'):
        path = _revision(folder)
        _, mark, facts = path.read_text("utf-8").partition("\nRevision ID:")
        path.write_text(block.text + mark + facts, "utf-8")
    elif "def upgrade()" in block.text:
        path = _revision(folder)
        imports, mark, functions = block.text.partition("\n\ndef upgrade()")
        above, line, rest = path.read_text("utf-8").partition("from alembic import op\n")
        assert line
        facts = rest.partition("\ndef upgrade()")[0].strip("\n")
        path.write_text(f"{above}{imports}\n{facts}\n{mark}{functions}", "utf-8")
    elif block.text.startswith("ROWS"):
        (path,) = (folder / "tests" / "migrations" / "revisions").glob(f"rows_{NEXT_ID}_*.py")
        above = path.read_text("utf-8").partition("ROWS:")[0]
        path.write_text(above + block.text, "utf-8")
    elif "Table(" in block.text:
        with (folder / "nextcloud_mcp_server" / "schema" / "tables.py").open(
            "a", encoding="utf-8"
        ) as file:
            file.write("\n" + block.text)
    else:
        raise AssertionError(f"nobody knows what to do with line {block.line} of the tutorial")


def test_the_tutorial_leads_to_where_it_says(tmp_path: Path) -> None:
    """Every command ends well and shows what the page says that it shows."""
    folder, place = checkout(tmp_path / "checkout"), tmp_path / "place"
    place.mkdir()
    told = []
    for block in blocks(TUTORIAL):
        if block.language == "bash":
            told.append(run(block, TUTORIAL, folder, place, environment(place)))
        else:
            _write(block, folder)
    said = "\n".join(told)

    up, down = next(text for text in told if "CREATE TABLE" in text).split("downgraded ")
    assert "CREATE TABLE user_preferences" in up
    assert "CREATE TABLE" not in down
    assert f"downgrade  {NEXT_ID}   {HEAD} " in said
    assert len(re.findall(r"^\d+ passed", said, re.MULTILINE)) == 2
    assert "All checks passed!" in said
    assert f"clean: {len(ALL) + 1} revisions" in said
    assert "1 file changed" in said
    assert f"upgraded {place}/tokens.db from 010 to {NEXT_ID}" in said
    assert get_current_revision(place / "tokens.db") == "010"
