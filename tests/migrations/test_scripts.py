"""The files of the revisions: their names, their order and what they promise in words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from tests.migrations.database import SCRIPTS, configuration
from tests.migrations.facts import REVISIONS
from tests.support.revisions import KNOWN

DATES = {
    "001": "20251217_2200",
    "002": "20260113",
    "003": "20260227",
    "004": "20260407",
    "005": "20260502",
    "006": "20260502",
    "007": "20260607",
    "008": "20260615",
    "009": "20260721",
    "010": "20260816",
    "101": "20261123",
}
FILES = sorted(path for path in (SCRIPTS / "versions").glob("*.py"))


def test_the_history_is_one_line_that_begins_with_the_fields() -> None:
    """The ids and their order are those of the files in the field."""
    directory = ScriptDirectory.from_config(configuration())
    walked = [script.revision for script in directory.walk_revisions()]
    assert walked[::-1] == list(REVISIONS)
    assert REVISIONS[: len(KNOWN)] == KNOWN
    assert directory.get_base() == "001"
    assert len(directory.get_heads()) == 1


def test_file_names_say_when_what_and_why() -> None:
    """YYYYMMDD_HHMM_XXX_description.py, in the order of the ids."""
    found = {}
    for path in FILES:
        match = re.fullmatch(r"(\d{8}_\d{4})_(\d{3})_[a-z0-9_]+", path.stem)
        assert match, path.name
        found[match[2]] = match[1]
    assert {number: found[number][: len(date)] for number, date in DATES.items()} == DATES
    assert sorted(found.values()) == [found[number] for number in sorted(found)]
    assert (SCRIPTS / "versions" / "20251217_2200_001_initial_schema.py").exists()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_revision_says_what_a_downgrade_loses(path: Path) -> None:
    """One line, which the command repeats before it asks."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    lines = [line for line in docstring.splitlines() if line.startswith("Downgrade loses: ")]
    assert len(lines) == 1
    assert lines[0].endswith(".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_revisions_are_frozen_history(path: Path) -> None:
    """They import nothing of the application, which changes while they must not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= {"__future__", "alembic", "sqlalchemy"}


def test_the_folder_does_not_hide_the_library() -> None:
    """An __init__.py here would be imported instead of Alembic, from a checkout."""
    assert not (SCRIPTS / "__init__.py").exists()
    assert not (SCRIPTS / "versions" / "__init__.py").exists()
