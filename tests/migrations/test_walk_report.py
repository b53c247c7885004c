"""The report of what was walked."""

from __future__ import annotations

import subprocess
import sys

from tests.migrations.database import ROOT
from tests.support.revisions import HEAD


def test_the_run_prints_what_its_workers_walked() -> None:
    """The process that was started has a line for each way, with the revisions and the rows."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--numprocesses=1", "-p", "no:cacheprovider"),
            *("tests/migrations/test_walk.py", "-k", f"one_step and sqlite and (001 or {HEAD})"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    _, _, table = done.stdout.partition("migrations walked, with rows in every table")
    down, up = (line for line in table.splitlines() if line.startswith("sqlite, "))
    assert up.startswith("sqlite, up: 2 revisions, ")
    assert down.startswith("sqlite, down: 2 revisions, ")
    assert not up.endswith(" 0 rows kept")
