"""Fixtures and hooks of all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.places import Shelf
from tests.faults import trials as fault_trials
from tests.faults.programs import ProgramServer
from tests.faults.trials import pytest_report_header, trials
from tests.migrations.walk_report import summarize
from tests.support.postgresql import Server, running
from tests.support.scripts import copied_scripts, used

# Hooks of a subfolder are not called in the process that prints, so they are here.
__all__ = ["own_scripts", "pytest_report_header", "pytest_terminal_summary", "trials"]


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell ignores it for a job in the background, and so would the programs of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of fault trials and of migration walks."""
    fault_trials.pytest_terminal_summary(terminalreporter)
    summarize(terminalreporter)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of this test's database, which does not exist, in an empty private folder."""
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data" / "tokens.db"


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Databases in every state."""
    return Shelf(tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A running server of PostgreSQL that does not wait for the disk."""
    with running() as server:
        yield server


@pytest.fixture
def own_scripts(tmp_path: Path) -> Iterator[Path]:
    """Make the program use a copy of the scripts up to 010."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    with used(copied_scripts(folder)) as scripts:
        yield scripts


@pytest.fixture(scope="module")
def programs() -> Iterator[ProgramServer]:
    """A process that forks the program."""
    with closing(ProgramServer()) as process:
        yield process
