"""A new revision joins the tests automatically, as documented."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from tests.migrations.database import ROOT
from tests.support.child import run_program
from tests.support.revisions import ALL, NEXT_ID

GUIDE: Final = ROOT / "docs" / "database-migrations.md"
COPIED: Final = ("alembic", "docs", "nextcloud_mcp_server", "tests", "pyproject.toml")

#: What is run in the copy: the walks of the new revision, and texts that name the newest one.
SAMPLE: Final = (
    "tests/migrations/test_walk.py",
    "tests/migrations/test_again.py",
    "tests/migrations/test_offline.py",
    "tests/migrations/test_rows.py",
    "tests/migrations/test_scripts.py",
    "tests/cli/test_states.py",
    "tests/migrate/test_journal.py",
)
CHOSEN: Final = (
    f"(sqlite and {NEXT_ID}) or test_scripts or test_rows or (sqlite and whole_history) or "
    "current_prints or "
    "newest_come_first"
)


def example() -> str:
    """Return the migration of the guide."""
    text = GUIDE.read_text("utf-8")
    found = re.search(r"### Step 2.*?```python\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


def checkout(folder: Path) -> Path:
    """Copy everything that the tests of a checkout need."""
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def run(folder: Path, *arguments: str) -> str:
    """Run Python in the copy, check its exit status, and return its output."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder)}
    done = run_program(sys.executable, *arguments, cwd=folder, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fill_in_rows(folder: Path) -> None:
    """Use the example rows of the new file of rows."""
    (path,) = (folder / "tests" / "migrations" / "revisions").glob(f"rows_{NEXT_ID}_*.py")
    text = path.read_text("utf-8")
    assert text.count("\n    # ") == 4, text
    path.write_text(text.replace("\n    # ", "\n    "), "utf-8")


def test_a_new_revision_joins_the_tests(tmp_path: Path) -> None:
    """After the steps of the guide, in a copy of the checkout, the tests run its example."""
    folder = checkout(tmp_path / "checkout")
    run(folder, "-m", "nextcloud_mcp_server", "db", "migrate", "add user preferences table")
    (path,) = (folder / "alembic" / "versions").glob(f"*_{NEXT_ID}_*.py")
    head = path.read_text("utf-8").partition("def upgrade")[0]
    head = re.sub("FILL IN .*", "the preferences.", head)
    path.write_text(head + example(), "utf-8")
    fill_in_rows(folder)
    lint = run(folder, "-m", "nextcloud_mcp_server", "db", "lint", "--fix", "--strict")
    assert lint.splitlines()[-2:] == [
        "wrote alembic/structure.json",
        f"clean: {len(ALL) + 1} revisions in alembic/versions",
    ]
    ask = (
        "from tests.migrations.rows import seed; print(seed({!r}, 'portable')['user_preferences'])"
    )
    assert run(folder, "-c", ask.format(NEXT_ID)).count("theme") == 2

    options = ("-q", "-rA", "-p", "no:cacheprovider", "-k", CHOSEN)
    said = run(folder, "-m", "pytest", *options, *SAMPLE)

    for test in (
        f"test_one_step_up_makes_the_structure_and_keeps_every_row[sqlite-{NEXT_ID}]",
        f"test_one_step_down_leaves_no_trace_and_keeps_every_row[sqlite-{NEXT_ID}]",
        f"test_a_second_run_changes_nothing[sqlite-upgrade-{NEXT_ID}]",
        f"test_every_table_has_rows[{NEXT_ID}]",
        f"test_a_part_of_the_result_is_completed[sqlite-{NEXT_ID}: table user_preferences]",
        "test_the_newest_come_first",
        "test_current_prints_what_the_database_is[at-head]",
    ):
        assert test in said, said
