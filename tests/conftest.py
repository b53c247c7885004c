"""What tests all over the suite share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

# Hooks of a folder that is collected by other processes only would not be called.
from tests.faults import tally
from tests.faults.tally import pytest_report_header
from tests.migrations.walk_report import summarize
from tests.support.scripts import copied_scripts, used

__all__ = ["own_scripts", "pytest_report_header", "pytest_terminal_summary"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was produced of faults, and what was walked of the history."""
    tally.pytest_terminal_summary(terminalreporter)
    summarize(terminalreporter)


@pytest.fixture
def own_scripts(tmp_path: Path) -> Iterator[Path]:
    """A copy of the scripts up to 010, which the program uses in this test."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    with used(copied_scripts(folder)) as scripts:
        yield scripts
