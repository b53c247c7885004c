"""The tutorial and the guides for authors of migrations, followed in a copy of the checkout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from nextcloud_mcp_server.migrations import get_current_revision
from tests.support.revisions import ALL, HEAD, NEXT_ID
from tests.wheel.documents import ROOT, Block, blocks, checkout, environment, run

TUTORIAL: Final = ROOT / "docs" / "tutorial" / "write-a-migration.md"
CHANGE_ROWS: Final = ROOT / "docs" / "how-to" / "change-rows.md"


def _revision(folder: Path) -> Path:
    (path,) = (folder / "alembic" / "versions").glob(f"*_{NEXT_ID}_*.py")
    return path


def _rows(folder: Path) -> Path:
    (path,) = (folder / "tests" / "migrations" / "revisions").glob(f"rows_{NEXT_ID}_*.py")
    return path


def _write(block: Block, folder: Path) -> None:
    """Write a block that is no command into its file."""
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
        path = _rows(folder)
        above = path.read_text("utf-8").partition("ROWS:")[0]
        path.write_text(above + block.text, "utf-8")
    elif block.text.startswith("from typing"):
        path = _rows(folder)
        above = path.read_text("utf-8").partition("from typing")[0]
        path.write_text(above + block.text, "utf-8")
    elif "Table(" in block.text:
        with (folder / "nextcloud_mcp_server" / "schema" / "tables.py").open(
            "a", encoding="utf-8"
        ) as file:
            file.write("\n" + block.text)
    elif "def test_" in block.text:
        text = block.text.replace('"105"', f'"{NEXT_ID}"')
        (folder / "tests" / "plugin" / "test_example.py").write_text(text, "utf-8")
    elif block.language != "text":
        raise AssertionError(f"line {block.line} is neither a command nor a known file")


def _follow(page: Path, tmp_path: Path) -> list[str]:
    """Do what ``page`` says in a checkout, and return the output of each command."""
    folder, place = checkout(tmp_path / "checkout"), tmp_path / "place"
    place.mkdir()
    outputs = []
    for block in blocks(page):
        if block.language == "bash":
            outputs.append(run(block, page, folder, place, environment(place)))
        else:
            _write(block, folder)
    return outputs


def test_the_tutorial_works(tmp_path: Path) -> None:
    """Every command succeeds and prints what the page describes."""
    outputs = _follow(TUTORIAL, tmp_path)
    output, place = "\n".join(outputs), tmp_path / "place"

    up, down = next(text for text in outputs if "CREATE TABLE" in text).split("downgraded ")
    assert "CREATE TABLE user_preferences" in up
    assert "CREATE TABLE" not in down
    assert f"downgrade  {NEXT_ID}   {HEAD} " in output
    assert len(re.findall(r"^\d+ passed", output, re.MULTILINE)) == 2
    assert "All checks passed!" in output
    assert f"clean: {len(ALL) + 1} revisions" in output
    assert re.search(r"^ 2 files changed", output, re.MULTILINE)
    assert f"upgraded {place}/tokens.db from 010 to {NEXT_ID}" in output
    assert get_current_revision(place / "tokens.db") == "010"


def test_the_guide_for_changes_of_rows_works(tmp_path: Path) -> None:
    """Every command succeeds, the declared changes are tested, and so is the test of a service."""
    output = "\n".join(_follow(CHANGE_ROWS, tmp_path))
    folder, place = tmp_path / "checkout", tmp_path / "place"

    assert f"clean: {len(ALL) + 1} revisions" in output
    assert len(re.findall(r"^\d+ passed", output, re.MULTILINE)) == 1
    assert "All checks passed!" in output
    service = Block(0, "bash", "uv run --group dev pytest -q tests/plugin/test_example.py\n")
    assert "1 passed" in run(service, CHANGE_ROWS, folder, place, environment(place))

    rows = _rows(folder)
    rows.write_text(rows.read_text("utf-8").rpartition("CHANGES:")[0] + "ROWS = {}\n", "utf-8")
    command = (
        f"! uv run --group dev pytest -q tests/migrations/test_walk.py -k 'sqlite and {NEXT_ID}'"
    )
    failed = run(Block(0, "bash", f"{command}\n"), CHANGE_ROWS, folder, place, environment(place))
    assert "changes username of app_passwords" in failed
