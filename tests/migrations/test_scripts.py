"""The names and the order of the version files."""

from __future__ import annotations

import re

from alembic.script import ScriptDirectory

from tests.migrations.database import configuration
from tests.migrations.facts import REVISIONS
from tests.support.revisions import KNOWN
from tests.support.scripts import SCRIPTS

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


def test_the_history_is_linear_and_begins_with_the_known_ids() -> None:
    """The ids and their order are those of released databases."""
    directory = ScriptDirectory.from_config(configuration())
    walked = [script.revision for script in directory.walk_revisions()]
    assert walked[::-1] == list(REVISIONS)
    assert REVISIONS[: len(KNOWN)] == KNOWN
    assert directory.get_base() == "001"
    assert len(directory.get_heads()) == 1


def test_file_names_have_date_id_and_description() -> None:
    """YYYYMMDD_HHMM_XXX_description.py, in the order of the ids."""
    found = {}
    for path in FILES:
        match = re.fullmatch(r"(\d{8}_\d{4})_(\d{3})_[a-z0-9_]+", path.stem)
        assert match, path.name
        found[match[2]] = match[1]
    assert {number: found[number][: len(date)] for number, date in DATES.items()} == DATES
    assert sorted(found.values()) == [found[number] for number in sorted(found)]
    assert (SCRIPTS / "versions" / "20251217_2200_001_initial_schema.py").exists()


def test_the_folder_does_not_hide_the_library() -> None:
    """There is no __init__.py: it would be imported instead of Alembic, in a checkout."""
    assert not (SCRIPTS / "__init__.py").exists()
    assert not (SCRIPTS / "versions" / "__init__.py").exists()
