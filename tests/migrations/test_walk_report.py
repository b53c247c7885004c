"""The table of what was walked."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

from tests.migrations.database import ROOT
from tests.migrations.walk_report import Walk, table
from tests.support.revisions import BEFORE, HEAD


def walked(outcome: str, start: str, end: str, way: str, rows: dict[str, list[Any]]) -> Any:
    """Return the report of a test that walks on SQLite."""
    found: list[tuple[str, object]] = []
    walk = Walk(lambda name, value: found.append((name, value)), "sqlite")
    walk.begins(start, end, way)
    walk.kept(rows)
    return SimpleNamespace(outcome=outcome, user_properties=found)


def test_a_line_has_every_way_of_a_step() -> None:
    """Both directions are in one line, with all their rows; one failure is never overwritten."""
    lines = table(
        [
            walked("failed", "001", "002", "up", {}),
            walked("passed", "001", "002", "up", {"a": [1, 2, 3], "b": []}),
            walked("passed", "002", "001", "down", {"a": [1], "c": [1]}),
            walked("passed", "base", "001", "SQL up", {}),
        ]
    )
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "sqlite base 001 - - - - ok - 0",
        "sqlite 001 002 FAILED - ok - - - 5",
    ]
    assert table([SimpleNamespace(outcome="passed", user_properties=[("faults", ("x", 1))])]) == []


def test_the_table_is_printed_by_the_run_itself() -> None:
    """The process that was started prints what its workers walked."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--numprocesses=1", "-p", "no:cacheprovider"),
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
