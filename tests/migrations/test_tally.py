"""The table of what was walked: complete, and true of what failed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from tests.migrations.database import ROOT
from tests.migrations.tally import EACH, Walk, table
from tests.support.revisions import BEFORE, HEAD


def walked(outcome: str, start: str, end: str, how: str, *kept: dict[str, list[Any]]) -> Any:
    """The report of a test that walks on SQLite."""
    found: list[tuple[str, object]] = []
    walk = Walk(lambda name, value: found.append((name, value)), "sqlite")
    walk.begins(start, end, how)
    for rows in kept:
        walk.kept(rows)
    return SimpleNamespace(outcome=outcome, user_properties=found)


def test_a_line_tells_every_way_of_a_step() -> None:
    """Both directions stand in one line, with the rows of all of them."""
    lines = table(
        [
            walked("passed", "base", "001", "up", {}),
            walked("passed", "001", "002", "up", {"a": [1, 2, 3], "b": []}),
            walked("passed", "002", "001", "down", {"a": [1], "c": [1]}),
            walked("passed", EACH, EACH, "leap", {"a": [1]}, {"a": [1, 2]}),
        ]
    )
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "sqlite base 001 ok - - - - - 0 of 0 tables held",
        "sqlite 001 002 ok - ok - - - 5 of 2 tables held",
        "sqlite each each 2 leaps 3 of 1 tables held",
    ]
    assert (
        table([SimpleNamespace(outcome="passed", user_properties=[("faults", ("x", 1, 1))])]) == []
    )


def test_a_walk_that_failed_says_so() -> None:
    """One failure among the ways is the verdict, however many others held."""
    lines = table(
        [
            walked("passed", "002", "001", "down", {"a": [1]}),
            walked("failed", "001", "002", "up"),
            walked("passed", "001", "002", "up", {"a": [1]}),
        ]
    )
    assert " ".join(lines[1].split()) == "sqlite 001 002 FAILED - ok - - - 2 of 1 tables FAILED"


def test_the_table_is_printed_by_the_run_itself() -> None:
    """What other processes walked is told by the one that was started, as nox does it."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--numprocesses=2", "-p", "no:cacheprovider"),
            *("tests/migrations/test_walk.py", "-k", f"one_step and sqlite and {HEAD}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "migrations walked, with rows in every table" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("sqlite "))
    assert line.split()[:5] == ["sqlite", BEFORE, HEAD, "ok", "-"]
    assert line.endswith(" held")
